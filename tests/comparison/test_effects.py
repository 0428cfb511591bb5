"""Effects over seeds and items: known answers, coverage of equal arms, and what cannot be compared."""

import numpy as np
import pytest

from tasks.comparison import effects, effects_markdown, signal_to_noise
from tasks.comparison.effects import seed_variances
from tasks.comparison.reading import ItemKey, Items, Measurement
from tasks.errors import BadInput


def items(scores: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Items:
    return {ItemKey(f"{index:04}", 0): Measurement("", "", "", float(score)) for index, score in enumerate(scores)}


def arm(generator: np.random.Generator, shift: float, seeds: int = 3, n: int = 200) -> list[Items]:
    """Scores of the same items, with noise of seeds (.02) and of items (.05)."""
    difficulty = np.linspace(1, 3, n)
    return [items(difficulty + shift + generator.normal(0, 0.02) + generator.normal(0, 0.05, n)) for _ in range(seeds)]


def test_two_arms_are_a_paired_t_test_over_seeds() -> None:
    """Differences of seeds -.1, 0, .1: their variance .01 is that of two runs, so that each has .005 with 2/2 df."""
    variances, freedom = seed_variances(np.array([[1.0, 2.0, 3.0], [0.9, 2.0, 3.1]]))
    assert variances == pytest.approx([0.005, 0.005])
    assert freedom == 1


def test_an_arm_that_is_broken_does_not_move_the_others() -> None:
    generator = np.random.default_rng(1)
    means = generator.normal(0, 0.01, (12, 3)) + np.array([0.0, 0.3, -0.2])  # the seeds differ, the arms do not
    means[5] += np.array([2.0, -1.0, 4.0])
    variances, freedom = seed_variances(means)
    assert variances[5] > 100 * variances[0]
    assert np.delete(variances, 5) == pytest.approx(np.full(11, 1e-4), abs=3e-4)
    assert freedom > 2


def test_lower_is_better_for_bits_per_byte() -> None:
    generator = np.random.default_rng(0)
    own = {"much data": arm(generator, -0.5), "shuffled": arm(generator, 0.5)}
    found, left_out = effects("bits_per_byte", arm(generator, 0), own)
    assert [effect.outcome for effect in found] == ["better", "worse"]
    assert found[0].low < -0.5 < found[0].high
    assert not left_out
    assert [effect.outcome for effect in effects("accuracy", arm(generator, 0), own)[0]] == ["worse", "better"]


def test_equal_runs_are_equivalent() -> None:
    same = arm(np.random.default_rng(0), 0)
    (effect,), _ = effects("bits_per_byte", same, {"threads": same})
    assert (effect.outcome, effect.difference, effect.p_value) == ("equivalent", 0, 1)


@pytest.mark.parametrize("score", [0.5, 1 / 3])  # 1 / 3: the differences are equal up to rounding
def test_equal_differences_of_all_seeds_are_tested_by_their_signs(score: float) -> None:
    """Standard error zero. 3 seeds: 2 / 2**3 = .25 is no evidence of a difference; 6 seeds: 2 / 2**6 = .03 is."""
    outcomes = []
    for seeds in (3, 6):
        base, other = ([items(np.full(5, score + shift + seed / 7)) for seed in range(seeds)] for shift in (0, 0.2))
        (effect,), _ = effects("accuracy", base, {"other": other})
        assert effect.p_value == 2 / 2**seeds
        outcomes.append(effect.outcome)
    assert outcomes == ["not comparable", "better"]


def test_a_difference_that_all_seeds_share_is_not_known_to_be_general() -> None:
    """With each of two seeds, 40 of 100 items more are right; the error of the items alone would say better."""
    base = [items((np.arange(100) < 20 + seed).astype(float)) for seed in range(2)]
    other = [items((np.arange(100) < 60 + seed).astype(float)) for seed in range(2)]
    (effect,), _ = effects("accuracy", base, {"other": other})
    assert effect.outcome == "not comparable"
    assert effect.reason.startswith("the difference +0.4 is the same with all 2 seeds")


def test_few_false_alarms_among_equal_arms() -> None:
    """100 ablations of 10 arms without an effect: Holm's correction allows one with an alarm in 20."""
    generator = np.random.default_rng(5)
    alarms, covered = 0, 0
    for _ in range(100):
        found, _ = effects("loss", arm(generator, 0, n=40), {str(i): arm(generator, 0, n=40) for i in range(10)})
        alarms += any(effect.outcome in ("better", "worse") for effect in found)
        covered += sum(effect.low <= 0 <= effect.high for effect in found)
    assert alarms <= 10
    assert covered >= 930


def test_the_signal_is_the_range_of_arms_and_the_noise_that_of_seeds() -> None:
    """Means 1 and 3 with seeds +-.1: range 2; differences of seeds have the variance .08, of one run .04: 2 / .2."""
    base, other = ([items(np.full(5, value)) for value in values] for values in ((0.9, 1.1), (3.1, 2.9)))
    assert signal_to_noise([base, other]) == pytest.approx(2 / 0.2)
    assert signal_to_noise([base]) is None
    assert signal_to_noise([base, base]) is None


def test_what_cannot_be_compared_says_why() -> None:
    generator = np.random.default_rng(0)
    base, short = arm(generator, 0), [dict(list(one.items())[:100]) for one in arm(generator, 0)]
    diverged = arm(generator, 0)
    diverged[1] = {key: one._replace(score=float("nan")) for key, one in diverged[1].items()}
    found, left_out = effects("loss", base, {"short": short, "diverged": diverged})
    assert not found
    assert left_out["short"] == "only 100 of the 200 items of the baseline are in all of its runs"
    assert "not a number" in left_out["diverged"]
    single = [dict(list(one.items())[:1]) for one in base]
    (effect,), _ = effects("loss", single, {"other": [dict(list(one.items())[:1]) for one in arm(generator, 1)]})
    assert effect.outcome == "not comparable"
    assert effect.as_json()["low"] is None
    with pytest.raises(BadInput, match="at least 2 seeds"):
        effects("loss", base[:1], {})


def test_the_page_has_a_verdict_for_each_change() -> None:
    generator = np.random.default_rng(0)
    (effect,), _ = effects("loss", arm(generator, 0), {"with a|b": arm(generator, 1)})
    cost = {"train_documents": 10, "weights": 100, "tokens": 1000, "seconds": 2.5, "flops": 6e5}
    rows = [{"change": "with a|b", "effects": {"loss": effect.as_json()}, "left_out": {}, **cost},
            {"change": "x=1", "effects": {}, "left_out": {"loss": "no items"}, **cost}]  # fmt: skip
    about = {"primary": "loss", "metrics": ["loss"], "signal_to_noise": {"loss": 12.3}, "test": {"documents": 7}}
    text = effects_markdown({"arms": rows, "baseline": cost, "seeds": 3, "to": "pretrain", "proxy": "a proxy", **about})
    assert "with a|b is worse than the baseline on loss" in text
    assert "x=1 is not comparable with the baseline on loss: no items." in text
    assert "| with a\\|b | worse | " in text
    assert "Signal-to-noise ratio: 12.3." in text
