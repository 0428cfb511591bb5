"""Add tokens for this corpus to the tokenizer of another model, by continued training of byte-level BPE.

The existing tokens are the alphabet of a second BPE training (arXiv:1508.07909): the most frequent pairs of them in the
corpus become new tokens, with ids after all existing ones. Existing ids do not change, so that the weights of the model
remain valid; the model only gets new rows in its embedding and head.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tasks.errors import BadParams
from tasks.tokenization.bpe import MAX_WORD

# `tokenizers` trains on characters, not on token ids. So every existing token is represented by one character: the one
# with the code point FIRST_CODE_POINT + id. Above 0x10000 there are a million code points, and no surrogates or spaces.
FIRST_CODE_POINT = 0x10000
WORDS_PER_LINE = 1000

Merge = tuple[str, str]


def extend(tokenizer: Any, texts: Iterable[str] | Mapping[str, int], num_tokens: int, min_frequency: int = 2) -> Any:
    """Add up to `num_tokens` tokens, learned from `texts`, to `tokenizer`, in place. Returns the tokenizer.

    texts: or what `count_words` returns for them. min_frequency: a pair of tokens is merged only if it occurs so often.
    Raises BadParams if the tokenizer is not a byte-level BPE.
    """
    backend = tokenizer.backend_tokenizer
    spec = json.loads(backend.to_str())
    if spec["model"]["type"] != "BPE" or "ByteLevel" not in json.dumps(spec["pre_tokenizer"]):
        raise BadParams(
            "tokenization.new_tokens can be added to byte-level BPE tokenizers only (GPT-2, Llama 3, Qwen ...), but "
            f"tokenization.tokenizer is a {spec['model']['type']}. Set new_tokens to 0 or choose another tokenizer."
        )
    word_counts = texts if isinstance(texts, Mapping) else count_words(backend, texts)
    merges = _learn_merges(backend, word_counts, num_tokens, min_frequency)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(_add_merges(spec, merges)))
    return tokenizer


def count_words(backend: Any, texts: Iterable[str]) -> Counter[str]:
    """Return how often each word occurs. Words are the results of pre-tokenization; merges do not cross them.

    A longer word than MAX_WORD is cut, because the time of training grows with the square of the length of a word.
    """
    word_counts: Counter[str] = Counter()
    for text in texts:
        normalized = backend.normalizer.normalize_str(text) if backend.normalizer else text
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized):
            word_counts.update(word[start : start + MAX_WORD] for start in range(0, len(word), MAX_WORD))
    return word_counts


def _learn_merges(backend: Any, word_counts: Mapping[str, int], num_tokens: int, min_frequency: int) -> list[Merge]:
    """Return pairs of tokens to merge, in order. They result in `num_tokens` new tokens, or fewer in a small corpus."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    token_names = {index: token for token, index in vocabulary.items()}
    ids_of_word = {word: [token.id for token in backend.model.tokenize(word)] for word in word_counts}
    used_ids = sorted({index for ids in ids_of_word.values() for index in ids})
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=len(used_ids) + num_tokens,
        min_frequency=min_frequency,
        initial_alphabet=[chr(FIRST_CODE_POINT + index) for index in used_ids],
        show_progress=False,
    )
    bpe.train_from_iterator(_training_lines(word_counts, ids_of_word), trainer)
    pairs = json.loads(bpe.to_str())["model"]["merges"]
    # Depending on its version, `tokenizers` writes a merge as a list or as one string with a space.
    return [
        (_to_token(first, token_names), _to_token(second, token_names))
        for first, second in (pair if isinstance(pair, list) else pair.split(" ") for pair in pairs)
    ]


def _training_lines(word_counts: Mapping[str, int], ids_of_word: dict[str, list[int]]) -> Iterator[str]:
    """Yield each word as characters, as often as it occurs, in lines of up to WORDS_PER_LINE words."""
    for word in sorted(word_counts):  # sorted, so that the result does not depend on the order of the texts
        characters = "".join(chr(FIRST_CODE_POINT + index) for index in ids_of_word[word])
        for start in range(0, word_counts[word], WORDS_PER_LINE):
            yield " ".join([characters] * min(WORDS_PER_LINE, word_counts[word] - start))


def _to_token(characters: str, token_names: dict[int, str]) -> str:
    """Return the token that a sequence of characters represents."""
    return "".join(token_names[ord(character) - FIRST_CODE_POINT] for character in characters)


def _add_merges(spec: dict[str, Any], merges: list[Merge]) -> dict[str, Any]:
    """Return the JSON of the tokenizer with `merges` after its own, and the tokens that result from them."""
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    # Special tokens may be outside of the model's vocabulary, with ids after it (Llama 3, Qwen). `tokenizers` would
    # move them when the vocabulary grows, so they become part of it under their present ids.
    for token in spec["added_tokens"]:
        vocabulary.setdefault(token["content"], token["id"])
    all_merges = spec["model"]["merges"]
    next_id = max(vocabulary.values()) + 1
    for pair in merges:
        token = "".join(pair)
        if token not in vocabulary:
            vocabulary[token] = next_id
            next_id += 1
        all_merges.append(list(pair) if not all_merges or isinstance(all_merges[0], list) else " ".join(pair))
    return spec
