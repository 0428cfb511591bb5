"""Teach the tokenizer of another model the words of this corpus: byte-level BPE (arXiv:1508.07909), trained on.

Training goes on where that of the tokenizer ended: its tokens are the alphabet, and the pairs of them that the corpus
has most often become new tokens, behind all the old ones. Old ids stay; the model gets a row for each new one.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tasks.errors import BadParams

FIRST_LETTER = 0x10000  # a letter of its own for each old token: there are a million of them above
AT_ONCE = 1000  # words of one line

Merge = tuple[str, str]


def extend(tokenizer: Any, texts: Iterable[str], number: int, min_frequency: int = 2) -> Any:
    """`tokenizer` with up to `number` tokens more, learned from `texts`.

    Raises BadParams where it is no byte-level BPE.
    """
    backend = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    if spec["model"]["type"] != "BPE" or "ByteLevel" not in json.dumps(spec["pre_tokenizer"]):
        raise BadParams(
            "tokenization.new_tokens can be added to byte-level BPE tokenizers only (GPT-2, Llama 3, Qwen ...), and "
            f"tokenization.tokenizer is a {spec['model']['type']}; set new_tokens to 0 or choose another"
        )
    words = _words(backend, texts)
    merges = _merges(backend, words, number, min_frequency)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(_extended(spec, merges)))
    return tokenizer


def _words(backend: Any, texts: Iterable[str]) -> Counter[str]:
    """How often the corpus has each piece that tokens may not reach across."""
    words: Counter[str] = Counter()
    for text in texts:
        plain = backend.normalizer.normalize_str(text) if backend.normalizer else text
        words.update(piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(plain))
    return words


def _merges(backend: Any, words: Counter[str], number: int, min_frequency: int) -> list[Merge]:
    """Pairs of tokens to be merged, in order, that give `number` new tokens or as many as there are."""
    known = backend.get_vocab(with_added_tokens=True)
    names = {index: token for token, index in known.items()}
    spelled = {word: [token.id for token in backend.model.tokenize(word)] for word in words}
    letters = sorted({index for ids in spelled.values() for index in ids})
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(letters) + number,
        min_frequency=min_frequency,
        initial_alphabet=[chr(FIRST_LETTER + index) for index in letters],
        show_progress=False,
    )
    trained.train_from_iterator(_lines(words, spelled), trainer)
    pairs = json.loads(trained.to_str())["model"]["merges"]
    return [
        (_named(left, names), _named(right, names))
        for left, right in (pair if isinstance(pair, list) else pair.split(" ") for pair in pairs)
    ]


def _lines(words: Counter[str], spelled: dict[str, list[int]]) -> Iterator[str]:
    for word in sorted(words):
        letters = "".join(chr(FIRST_LETTER + index) for index in spelled[word])
        for start in range(0, words[word], AT_ONCE):
            yield " ".join([letters] * min(AT_ONCE, words[word] - start))


def _named(letters: str, names: dict[int, str]) -> str:
    return "".join(names[ord(letter) - FIRST_LETTER] for letter in letters)


def _extended(spec: dict[str, Any], merges: list[Merge]) -> dict[str, Any]:
    """The tokenizer's JSON with `merges` behind its own."""
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    for token in spec["added_tokens"]:  # those outside of the vocabulary would move when it grows
        vocabulary.setdefault(token["content"], token["id"])
    own = spec["model"]["merges"]
    after = max(vocabulary.values()) + 1
    for pair in merges:
        token = "".join(pair)
        if token not in vocabulary:
            vocabulary[token] = after
            after += 1
        own.append(list(pair) if not own or isinstance(own[0], list) else " ".join(pair))
    return spec
