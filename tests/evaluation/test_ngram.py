"""The corpus "a b a c a b" over a vocabulary of four (a, b, c and d, which does not occur), worked by hand.

Pairs: ab 2, ba 1, ac 1, ca 1. One pair counted twice, three once: D = 3 / (3 + 2) = 0.6.
Distinct pairs ending in a: 2 (ba, ca), in b: 1, in c: 1; two of these are 1, one is 2: D' = 2 / (2 + 2) = 0.5.
p(a) = (2 - 0.5) / 4 + 0.5 * 3 / 4 / 4 = 0.46875; p(b) = p(c) = 0.5 / 4 + 0.09375 = 0.21875; p(d) = 0.09375.
After a (3 times, 2 distinct): backoff 0.6 * 2 / 3 = 0.4; p(b | a) = 1.4 / 3 + 0.4 * 0.21875.
"""

import numpy as np
import pytest

from tasks.evaluation.ngram import KneserNey, Unigram

A, B, C, D = range(4)
TOKENS = np.array([A, B, A, C, A, B])


@pytest.fixture
def bigram() -> KneserNey:
    return KneserNey.fit(TOKENS[:-1], TOKENS[1:], 4)


@pytest.mark.parametrize(
    ("context", "target", "expected"),
    [
        (A, B, 1.4 / 3 + 0.4 * 0.21875),
        (A, C, 0.4 / 3 + 0.4 * 0.21875),
        (A, A, 0.4 * 0.46875),
        (A, D, 0.4 * 0.09375),
        (B, A, 0.4 + 0.6 * 0.46875),
        (D, A, 0.46875),
        (D, D, 0.09375),
    ],
)
def test_kneser_ney_by_hand(bigram: KneserNey, context: int, target: int, expected: float) -> None:
    assert np.exp(bigram.log_probs(np.array([context]), np.array([target])))[0] == pytest.approx(expected)


def test_each_distribution_sums_to_one() -> None:
    ids = np.random.default_rng(0).zipf(1.5, 3000).clip(max=59) - 1
    bigram = KneserNey.fit(ids[:-1], ids[1:], 64)
    all_tokens = np.arange(64)
    for context in (0, 5, 58, 63):
        total = np.exp(bigram.log_probs(np.full(64, context), all_tokens)).sum()
        assert total == pytest.approx(1.0)
    assert np.exp(Unigram.fit(ids, 64).log_probs(all_tokens)).sum() == pytest.approx(1.0)


def test_unigram_by_hand() -> None:
    """Three a of six, one added to each of four: 4 / 10; d, which does not occur: 1 / 10."""
    unigram = Unigram.fit(TOKENS, 4)
    assert np.exp(unigram.log_probs(np.array([A, D]))) == pytest.approx([0.4, 0.1])


def test_the_context_improves_the_prediction() -> None:
    ids = np.tile(np.arange(8), 100)
    bigram, unigram = KneserNey.fit(ids[:-1], ids[1:], 8), Unigram.fit(ids, 8)
    assert bigram.log_probs(ids[:-1], ids[1:]).mean() > unigram.log_probs(ids[1:]).mean() + 1
