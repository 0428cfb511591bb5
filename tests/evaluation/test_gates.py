from typing import Any

import pytest
from pydantic import ValidationError

from tasks.evaluation import score_gates
from tasks.evaluation.gates import Gates, check
from tasks.reports import Score


def score(value: float) -> Score:
    return Score(value, value - 0.01, value + 0.01, 100)


@pytest.fixture
def scores() -> dict[str, Any]:
    return {
        "perplexity": score(100),
        "unigram_perplexity": score(900),
        "bigram_perplexity": score(120),
        "exact_match": {"sft": score(0.98), "ppo": score(0.99), "dpo": score(0.97)},
        "reward_accuracy": score(0.97),
        "gold": {"sft": score(0.75), "ppo": score(0.95), "dpo": score(0.76)},
        "gold_gain_standard_errors": {"ppo": 12.0, "dpo": 0.5},
        "kl": {"sft": score(0), "ppo": score(0.7), "dpo": score(2.5)},
        "over_optimized": {"ppo": 0, "dpo": 0},
    }


def test_only_over_optimization_is_refused_by_default(scores: dict[str, Any]) -> None:
    assert check(scores, Gates()).failed == []
    assert check({}, Gates()).failed == []
    scores["over_optimized"]["ppo"] = 1
    assert check(scores, Gates()).failed == [
        "refuse_over_optimization: the reward model's score of ppo rose while its gold reward fell"
    ]
    assert check(scores, Gates(refuse_over_optimization=False)).failed == []


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        (Gates(min_unigram_ratio=8, below_bigram=True), []),
        (
            Gates(min_unigram_ratio=10),
            ["the perplexity 100.0 is 9.0 times below that of the unigram model, expected at least 10 times"],
        ),
        (Gates(min_reward_accuracy=0.95, min_exact_match=0.95), []),
        (
            Gates(min_reward_accuracy=0.98),
            ["the reward model orders 0.970 of 100 test pairs correctly, expected at least 0.98"],
        ),
        (Gates(min_exact_match=0.975), ["dpo has 0.970, expected at least 0.975"]),
        (Gates(max_exact_match_loss=0.0), ["dpo has 0.970, sft has 0.980; expected a loss of at most 0"]),
        (Gates(max_exact_match_loss=0.02), []),
        (
            Gates(min_gold_gain=2),
            [
                "the gold reward of dpo is 0.760, that of sft is 0.750: "
                "a gain of 0.5 standard errors, expected at least 2"
            ],
        ),
        (Gates(max_kl=2), ["the KL divergence of dpo from sft is 2.50 nats per answer, expected at most 2"]),
    ],
)
def test_a_failed_gate_says_its_numbers(scores: dict[str, Any], gates: Gates, expected: list[str]) -> None:
    (name,) = gates.model_dump(exclude_defaults=True) if expected else ("",)
    assert check(scores, gates).failed == [f"{name}: {sentence}" for sentence in expected]


def test_below_bigram(scores: dict[str, Any]) -> None:
    scores["bigram_perplexity"] = score(99)
    assert check(scores, Gates(below_bigram=True)).failed == [
        "below_bigram: the perplexity 100.0 is not below that of the bigram model, 99.0"
    ]


def test_not_a_number_fails_every_gate(scores: dict[str, Any]) -> None:
    """NaN compares as false, so that it is neither below a minimum nor above a maximum."""
    gates = Gates(
        min_unigram_ratio=1, below_bigram=True, min_exact_match=0.1, max_exact_match_loss=1, min_reward_accuracy=0.1,
        min_gold_gain=-9, max_kl=99,
    )  # fmt: skip
    assert check(scores, gates).failed == []
    nan = float("nan")
    scores |= {"perplexity": score(nan), "reward_accuracy": score(nan)}
    scores["exact_match"]["ppo"] = scores["kl"]["ppo"] = score(nan)
    scores["gold_gain_standard_errors"]["ppo"] = nan
    assert len(check(scores, gates).failed) == 7


def test_what_was_not_measured_does_not_apply_or_fails_as_params_say() -> None:
    """Six gates; two of them share a metric, and so a sentence."""
    minima = {"min_unigram_ratio": 8, "min_exact_match": 0.9, "min_reward_accuracy": 0.9, "min_gold_gain": 2}
    gates = Gates(**minima, max_kl=2, below_bigram=True, refuse_over_optimization=False)
    outcome = check({}, gates, unmeasured={"reward_accuracy": "there are no preferences"})
    assert (outcome.num_checked, outcome.failed, len(outcome.not_applicable)) == (0, [], 5)
    assert all("was not measured: " in sentence for sentence in outcome.not_applicable)
    expected = "min_reward_accuracy: reward_accuracy was not measured: there are no preferences"
    assert expected in outcome.not_applicable
    strict = check({}, gates.model_copy(update={"when_not_measured": "fail"}))
    assert (strict.num_checked, len(strict.failed), strict.not_applicable) == (6, 5, [])


def test_the_kl_of_the_reference_alone_is_no_measurement() -> None:
    outcome = check({"kl": {"sft": score(0)}}, Gates(max_kl=2))
    assert outcome.not_applicable == ["max_kl: kl was not measured: there is no model to compare with sft"]


def test_a_gate_may_name_any_score() -> None:
    scores = {"benchmarks": {"quiz": {"accuracy": {"sft": score(0.4), "dpo": score(0.6)}, "about": {"rows": 3}}}}
    named = {"benchmarks.quiz.accuracy.*": {"min": 0.5}, "benchmarks.quiz.accuracy.dpo": {"max": 0.7}}
    outcome = check(scores, Gates.model_validate({"scores": named}))
    assert outcome.failed == ["benchmarks.quiz.accuracy.sft: 0.4 is below the minimum 0.5"]
    assert (outcome.num_checked, outcome.not_applicable) == (3, []), "refuse_over_optimization is a default"


def test_a_misspelled_score_fails_and_an_unmeasured_one_does_not_apply() -> None:
    named = Gates.model_validate({"scores": {"exact_mach.sft": {"min": 0.5}}})
    outcome = check({"exact_match": {"sft": score(0.9)}}, named)
    assert "no score has this name; did you mean 'exact_match.sft'?" in outcome.failed[0]
    named = Gates.model_validate({"scores": {"benchmarks.quiz.accuracy.sft": {"min": 0.5}}})
    names = {"benchmarks.quiz": ["benchmarks.quiz.accuracy.sft"], "accuracy": ["exact_match.sft"]}
    unmeasured = {"accuracy": "no prompt has a right answer", "benchmarks.quiz": "there is no model"}
    outcome = check({}, named, unmeasured=unmeasured, names_by_metric=names)
    assert outcome.not_applicable == [
        "benchmarks.quiz.accuracy.sft: benchmarks.quiz was not measured: there is no model"
    ]
    assert (outcome.num_checked, outcome.failed) == (1, [])
    misspelled = Gates.model_validate({"scores": {"benchmarks.quizz.accuracy.sft": {"min": 0.5}}})
    outcome = check({}, misspelled, unmeasured=unmeasured, names_by_metric=names)
    assert "no score has this name" in outcome.failed[0], "another metric that was not measured is no excuse"


def test_names_with_stars_are_compared_with_patterns() -> None:
    names = score_gates.expand(["bleu.MODEL.*", "perplexity"], ["sft", "ppo"])
    assert names == ["bleu.sft.*", "bleu.ppo.*", "perplexity"]
    for pattern in ("bleu.sft.zh-en", "bleu.*", "*.ppo.*", "*", "perplexit?", "[pq]erplexity", "*zh-en"):
        assert score_gates.may_match(pattern, names), pattern
    for pattern in ("bleu.stf.zh-en", "blue.*", "bleu.sft", "perplexity.sft", "*mach*", ""):
        expected = pattern == "*mach*"  # may be a key that depends on the data, such as a direction
        assert score_gates.may_match(pattern, names) is expected, pattern


def test_not_worse_than_the_champion_looks_at_the_interval_and_the_direction() -> None:
    """score(v) has the interval v +- 0.01."""
    named = {name: {"not_worse_than_champion": True} for name in ("exact_match.sft", "perplexity")}
    bounds = Gates.model_validate({"scores": named})
    scores = {"exact_match": {"sft": score(0.80)}, "perplexity": score(20.0)}
    near = {"exact_match": {"sft": {"value": 0.805, "low": 0.8, "high": 0.81, "n": 9}}, "perplexity": score(19.995)}
    far = {"exact_match": {"sft": score(0.82)}, "perplexity": score(19.9)}
    assert check(scores, bounds, champion=near).failed == []
    assert check(scores, bounds, champion=far).failed == [
        "exact_match.sft: 0.8 [0.79, 0.81] is worse than the champion, which has 0.82",
        "perplexity: 20 [19.99, 20.01] is worse than the champion, which has 19.9",
    ]
    outcome = check(scores, bounds)
    assert len(outcome.not_applicable) == 2
    assert outcome.num_checked == 1


def test_a_bound_must_say_something() -> None:
    with pytest.raises(ValidationError, match="expected `min`, `max` or `not_worse_than_champion: true`"):
        Gates.model_validate({"scores": {"kl.ppo": {}}})
