"""Paired statistics on small cases with known answers."""

import math

import numpy as np
import pytest

from tasks.comparison import paired


def test_mcnemar_is_a_binomial_test_of_the_discordant_items() -> None:
    """8 wins and 2 losses: 2 * (1 + 10 + 45) / 2^10 = 0.109375."""
    assert paired.mcnemar(8, 2) == pytest.approx(112 / 1024)
    assert paired.mcnemar(2, 8) == paired.mcnemar(8, 2)
    assert paired.mcnemar(5, 5) == 1.0
    assert paired.mcnemar(0, 0) == 1.0


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests() -> None:
    """Sorted: .01 * 3, .02 * 2, .5 * 1; adjusted values never decrease."""
    assert paired.holm([0.5, 0.01, 0.02]) == pytest.approx([0.5, 0.03, 0.04])
    assert paired.holm([0.04, 0.04]) == pytest.approx([0.08, 0.08])
    assert paired.holm([]) == []


def test_right_and_wrong_answers_use_mcnemar_and_the_interval_of_agresti_and_min() -> None:
    """b = 8, c = 2, n = 20: (8 - 2) / 22 = .2727, its error sqrt(11 - 36 / 22) / 22 = .1391."""
    a = [1.0] * 8 + [0.0] * 2 + [1.0] * 10
    b = [0.0] * 8 + [1.0] * 2 + [1.0] * 10
    test = paired.compare(a, b)
    assert (test.wins, test.losses, test.n) == (8, 2, 20)
    assert test.difference == pytest.approx(0.3)
    assert test.p_value == pytest.approx(112 / 1024)
    assert (test.low, test.high) == pytest.approx((0.2727 - 1.96 * 0.1391, 0.2727 + 1.96 * 0.1391), abs=2e-3)


def test_few_equal_answers_are_no_evidence_of_equivalence_and_many_are() -> None:
    assert paired.compare([1.0] * 20, [1.0] * 20).p_equivalent > 0.05
    assert paired.compare([1.0] * 1000, [1.0] * 1000).p_equivalent < 0.05
    equal_losses = np.linspace(1.0, 2.0, 10)
    assert paired.compare(equal_losses, equal_losses).p_equivalent > 0.05


def test_the_randomization_test_counts_the_observed_signs() -> None:
    """Twelve differences of 1: only 2 of 4,096 sign patterns are as extreme."""
    p = paired.swap_test(np.ones(12), 0.0, 12)
    assert p == pytest.approx(2 / 4096, abs=2e-3)
    assert paired.swap_test(np.ones(3), 0.0, 3) == pytest.approx(0.25, abs=0.03)


def test_items_of_one_group_count_as_one_observation() -> None:
    """Each score occurs five times in its group: the error of 30 groups, not of 150 items."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.3, 1, 30), generator.normal(0, 1, 30)
    single = paired.compare(a, b)
    groups = [f"g{index}" for index in range(30) for _ in range(5)]
    repeated = paired.compare(np.repeat(a, 5), np.repeat(b, 5), groups)
    assert (repeated.n, repeated.num_clusters) == (150, 30)
    assert repeated.low == pytest.approx(single.low, abs=0.06)
    assert repeated.smallest_noticeable == pytest.approx(single.smallest_noticeable, rel=1e-6)
    alone = paired.compare(np.repeat(a, 5), np.repeat(b, 5))
    assert alone.high - alone.low < 0.6 * (repeated.high - repeated.low)


def test_a_few_groups_are_categories() -> None:
    assert paired.cluster_indices(["en", "zh", "en"], 3).tolist() == [0, 1, 2]


def test_pairing_at_correlation_0_6_needs_two_and_a_half_times_fewer_items() -> None:
    """Var(a - b) = 2 (1 - .6) instead of 2."""
    generator = np.random.default_rng(1)
    common, own = generator.normal(size=20_000), generator.normal(size=(2, 20_000))
    scores = np.sqrt(0.6) * common + np.sqrt(0.4) * own + np.array([[0.1], [0.0]])
    test = paired.compare(scores[0], scores[1])
    assert test.correlation == pytest.approx(0.6, abs=0.02)
    assert test.items_needed is not None
    assert test.items_needed_unpaired is not None
    assert test.items_needed_unpaired / test.items_needed == pytest.approx(2.5, abs=0.1)


def test_equal_models_are_rarely_different() -> None:
    """300 A/A comparisons: about 5 % of them have a p below .05."""
    generator = np.random.default_rng(2)
    p_values = [paired.compare(*generator.exponential(size=(2, 40))).p_value for _ in range(300)]
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.09


def test_one_item_has_no_interval() -> None:
    """A single difference says nothing about other items, whatever its size."""
    test = paired.compare([0.5], [0.7])
    assert (test.low, test.high, test.p_value, test.p_equivalent) == (-math.inf, math.inf, 1, 1)
