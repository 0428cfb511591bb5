"""Shingles and signatures: datasketch with our shingle hash is the oracle, bit for bit."""

import random

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash

from tasks.curation.duplicates import minhash
from tasks.curation.text import shingles


def random_texts(seed: int, number: int) -> list[str]:
    dice = random.Random(seed)
    vocabulary = [*"的一是不了人我在有他", "the", "of", "Über", "naïve", "data", "x1", "數據", "internationalization"]
    return [" ".join(dice.choices(vocabulary, k=dice.randrange(60))) for _ in range(number)]


@pytest.mark.parametrize(("size", "permutations", "seed"), [(5, 112, 1), (1, 16, 7), (3, 130, 1)])
def test_signatures_are_datasketch_s(size: int, permutations: int, seed: int) -> None:
    texts = random_texts(permutations, 60)
    params = minhash.Params(shingle_size=size, num_permutations=permutations, seed=seed, bands=2, rows=4)
    signatures = minhash.signatures(pa.array(texts, pa.large_string()), params)
    for text, signature in zip(texts, signatures, strict=True):
        oracle = MinHash(permutations, seed=seed, hashfunc=shingles.shingle_hash, scheme="affine32")
        oracle.update_batch(shingles.shingles(text, size))
        assert np.array_equal(oracle.hashvalues, signature)


def test_permutations_are_datasketch_s() -> None:
    assert np.array_equal(minhash.permutations(112, 5), MinHash(112, seed=5, scheme="affine32").permutations)


def test_sets_are_sorted_distinct_shingles() -> None:
    texts = ["a b c a b c a b c", "", "a b", "c a b c a"]
    hashes, offsets = shingles.shingle_sets(pa.array(texts, pa.large_string()), 3)
    parts = [hashes[offsets[i] : offsets[i + 1]].tolist() for i in range(4)]
    assert [len(part) for part in parts] == [3, 0, 0, 3]  # abc bca cab; none; none; cab abc bca
    assert parts[0] == parts[3] == sorted(set(parts[0]))


def test_width_case_and_traditional_characters_do_not_change_a_signature() -> None:
    texts = pa.array(["漢語語言學是研究漢語的學科", "汉语语言学是研究汉语的学科"], pa.large_string())
    first, second = minhash.signatures(texts, minhash.Params())
    assert np.array_equal(first, second)
    texts = pa.array(["One two THREE four five six", "Ｏｎｅ, two three; FOUR five (six)"], pa.large_string())
    first, second = minhash.signatures(texts, minhash.Params())
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("first", "second", "are_alike"),
    [
        ("def f(x):\n    return x + 1", "def f(x):\n    return x - 1", False),
        ("x = a[i+1] * b[j-1]", "x = a[i-1] / b[j+1]", False),
        ("小明有三个苹果 ３＋４", "小明有三个苹果 ３×４", False),
        ("小明有三个苹果 ３＋４", "小明有三个苹果 3+4", True),
        ("def f(x):\n    return x + 1", "def f(x):\n\treturn x + 1", True),
        (
            "the well-known town of 2024-05-01 is here - or not",
            "The well known town of 2024 05 01 is here: or not",
            True,
        ),
    ],
)
def test_short_texts_with_other_operators_share_no_shingle(first: str, second: str, are_alike: bool) -> None:
    hashes, offsets = shingles.shingle_sets(pa.array([first, second], pa.large_string()), 3)
    assert np.array_equal(hashes[: offsets[1]], hashes[offsets[1] :]) == are_alike


def test_one_operator_in_a_long_text_changes_no_shingle() -> None:
    text = " ".join(f"word{i}" for i in range(60))
    hashes, offsets = shingles.shingle_sets(pa.array([f"{text} + 1", f"{text} * 1"], pa.large_string()), 5)
    assert np.array_equal(hashes[: offsets[1]], hashes[offsets[1] :])
