"""The compiled encoder has exactly the ids of the `tokenizers` library, and takes linear time."""

import json
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tasks.tokenization import bpe, patterns
from tasks.tokenization.chat import Encoder
from tasks.tokenization.compiled_bpe import CompiledBPE, byte_characters
from tests.tokenization.corpus import SENTENCES, tokenizer

PARTS = [
    *"abcXYZ '.,!?-_\n\r\t 019é中文字三百〇々あア한кК²½٣۳ßſķেा﷽アー", "\u3000", "\u00a0", "\u0301", "\u200d", "👩‍👩‍👧",
    "🇫🇷", "\u0085", "\u2028", "\x1c", "\x0b", "\x00", "\U00016ff0", "\u2e80", "\u3021", "'s", "'S", "'re", "'LL", "'ſ",
    "'ve ", "  ", "\r\n", "\n\n", " \n", "   a", "<|end|>", "<|user|>", " the cat", "翻译成", "321", "\U0003134a",
    "\U000e0100",
]  # fmt: skip
TEXTS = [
    *SENTENCES, *PARTS, "", "naïve café", "a<|end|><|assistant|>b", "line\r\n\r\n  next\r line \n", "x" * 1000,
    "中" * 1000, " " * 600, "\n" * 600, " \n" * 300, "-" * 600 + "\n" * 600, "1" * 1000, "\u0301" * 600, "don't DON'T",
    "12345 678", " 12345", "\t\tif x:\n\t\t\ty()\n", "e\u0301" * 400, "mixed中文and英文123",
]  # fmt: skip
OTHER_PATTERNS = [pattern for pattern in patterns.RULES if pattern != bpe.PATTERN]


def trained(pre_tokenizer: Any) -> Any:
    """A byte-level BPE tokenizer of 400 tokens with a pre-tokenizer, as a `tokenizers.Tokenizer`."""
    result = Tokenizer(models.BPE())
    result.pre_tokenizer, result.decoder = pre_tokenizer, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    result.train_from_iterator([*SENTENCES * 3, "don't we'll xxxxxxxx"] * 3, trainer)
    return result


def split_by(pattern: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


BACKENDS: dict[str, Callable[[], Any]] = {
    "ours": lambda: tokenizer(340).backend_tokenizer,
    "gpt2": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": lambda: trained(split_by(OTHER_PATTERNS[0])),
    "qwen2": lambda: trained(split_by(OTHER_PATTERNS[1])),
}


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of random parts, of repeated parts around the longest match, and of random characters."""
    rng = random.Random(seed)
    characters = [code for code in range(0x32000) if not 0xD800 <= code < 0xE000]
    texts = ["".join(rng.choices(PARTS, k=rng.randrange(60))) for _ in range(count)]
    lengths = (1, 2, 31, 32, 33, 63, 64, 65, 255, 256, 257, 258, 512, 513)
    texts += ["".join(rng.choice(PARTS) * rng.choice(lengths) for _ in range(3)) for _ in range(count)]
    return texts + ["".join(map(chr, rng.choices(characters, k=30))) for _ in range(count)]


def compiled_ids(backend: Any, texts: list[str]) -> list[list[int]]:
    encoder = CompiledBPE.of(backend)
    assert encoder is not None
    nothing = np.zeros(len(texts), np.int64)
    ids, starts = encoder.encode(pa.array(texts), nothing, nothing)
    return [part.tolist() for part in np.split(ids, starts[1:-1])]


def library_ids(backend: Any, texts: list[str]) -> list[list[int]]:
    backend.encode_special_tokens = True  # special tokens in a text are plain text
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


@pytest.mark.parametrize("name", BACKENDS)
def test_the_ids_are_those_of_the_library(name: str) -> None:
    backend, texts = BACKENDS[name](), [*TEXTS, *random_texts(400, seed=len(name))]
    differing = [
        text
        for text, ids, expected in zip(texts, compiled_ids(backend, texts), library_ids(backend, texts), strict=True)
        if ids != expected
    ]
    assert not differing


def test_words_return_after_the_memory_of_words_was_full() -> None:
    """100,000 different words of letters, twice: more than twice what is kept."""
    rng = random.Random(0)
    words = [" " + "".join(rng.choices("thecasonmdlg", k=9)) for _ in range(100_000)]
    backend, texts = tokenizer(340).backend_tokenizer, ["".join(words)] * 2
    assert compiled_ids(backend, texts) == library_ids(backend, texts)


def test_free_entries_stand_around_the_ids() -> None:
    encoder = CompiledBPE.of(tokenizer().backend_tokenizer)
    assert encoder is not None
    before, after = np.array([1, 0, 2]), np.array([0, 3, 1])
    nothing = np.zeros(3, np.int64)
    texts = pa.array(["the cat", "", "翻译"])
    ids, starts = encoder.encode(texts, before, after)
    expected, plain_starts = encoder.encode(texts, nothing, nothing)
    assert (np.diff(starts) == np.diff(plain_starts) + before + after).all()
    parts = [ids[starts[k] + before[k] : starts[k + 1] - after[k]] for k in range(3)]
    assert np.concatenate(parts).tolist() == expected.tolist()


def test_a_slice_of_an_array_is_encoded() -> None:
    encoder = Encoder(tokenizer())
    whole = encoder.encode_texts(["the cat", "sat", "翻译成"])
    sliced, starts = encoder.encode_flat(pa.array(["the cat", "sat", "翻译成"])[1:], *np.zeros((2, 2), np.int64))
    assert sliced.tolist() == np.concatenate(whole[1:]).tolist()
    assert starts.tolist() == [0, len(whole[1]), len(whole[1]) + len(whole[2])]


@pytest.mark.parametrize("name", ["ours", "gpt2"])
@pytest.mark.parametrize("run", ["a", "中", "ab", " ", "-", "\u0301", "the"])
def test_a_long_run_takes_linear_time(name: str, run: str) -> None:
    """1 MB takes some tenths of a second; with the square of the length it would take hours."""
    encoder, text = CompiledBPE.of(BACKENDS[name]()), pa.array([run * (1_000_000 // len(run.encode()))])
    assert encoder is not None
    begin = time.process_time()
    encoder.encode(text, *np.zeros((2, 1), np.int64))
    assert time.process_time() - begin < 10


def test_character_classes_know_every_code_point() -> None:
    """A letter, a Han character, a numeral, a combining mark, a line end, a space, an emoji; surrogates have none."""
    table = patterns.RULES[bpe.PATTERN].class_table()
    space, mark = patterns.SPACE | patterns.PREFIX, patterns.PREFIX | patterns.PUNCTUATION
    expected = {
        "a": patterns.LETTER, "中": patterns.HAN, "三": patterns.NUMBER, "7": patterns.NUMBER,
        "\u0301": mark | patterns.LETTER, "\n": patterns.SPACE | patterns.LINE_END, " ": space, "\u3000": space,
        "👩": mark, "\ud800": 0,
    }  # fmt: skip
    assert {character: int(table[ord(character)]) for character in expected} == expected


def test_byte_characters_are_those_of_the_library() -> None:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, range(128)))
    assert split.pre_tokenize_str(text)[0][0] == "".join(byte_characters()[:128])
    assert sorted(byte_characters()) == sorted(pre_tokenizers.ByteLevel.alphabet())


def changed(**parts: Any) -> Any:
    """The tokenizer of this project with other parts of its description."""
    spec = json.loads(tokenizer().backend_tokenizer.to_str())
    for path, value in parts.items():
        *outer, last = path.split("__")
        part = spec
        for key in outer:
            part = part[key]
        part[last] = value
    return Tokenizer.from_str(json.dumps(spec))


OTHER_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "another normalizer": lambda: changed(normalizer=json.loads(normalizers.NFC().__getstate__())),
    "dropout": lambda: changed(model__dropout=0.1),
    "whole words first": lambda: changed(model__ignore_merges=True),
    "a space in front": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "another pattern": lambda: trained(split_by(r"\p{L}+|\s+")),
    "no byte level": lambda: trained(pre_tokenizers.Whitespace()),
    "no pre-tokenizer": lambda: changed(pre_tokenizer=None),
}


@pytest.mark.parametrize("name", OTHER_TOKENIZERS)
def test_other_tokenizers_are_left_to_the_library(name: str) -> None:
    assert CompiledBPE.of(OTHER_TOKENIZERS[name]()) is None


def test_tokens_that_are_found_in_texts_are_left_to_the_library() -> None:
    """An added token that is not special is found in texts, and the library encodes it."""
    own = tokenizer()
    own.add_tokens(["zebra"])
    assert CompiledBPE.of(own.backend_tokenizer) is None
    (ids,) = Encoder(own).encode_texts(["a zebra"])
    assert ids.tolist()[-1] == own.convert_tokens_to_ids("zebra")
