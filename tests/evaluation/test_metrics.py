"""Metrics on fixed answers, against results that were computed by hand."""

from typing import Any

import numpy as np
import pytest

from tasks.evaluation.inputs import NotMeasured, Pair
from tasks.evaluation.metrics import accuracy, bleu, gold, reward_accuracy
from tests.evaluation.small import FixedAnswers, metadata

PROMPTS = [metadata(word) for word in ("one", "two", "three", "four")]
SAMPLED = {"sft": ["one", "two.", "three", "five"], "ppo": ["one.", "two.", "three.", "five."]}
GREEDY = {"sft": ["One", "two", "three.", "five"], "ppo": ["one.", "two.", "three.", "three."]}


@pytest.fixture
def inputs() -> FixedAnswers:
    return FixedAnswers(PROMPTS, SAMPLED, GREEDY)


def test_exact_match_looks_past_case_and_mark(inputs: FixedAnswers) -> None:
    result = accuracy.measure(inputs, accuracy.Params())
    by_model = result.scores["exact_match"]
    assert {name: (score.value, score.n) for name, score in by_model.items()} == {"sft": (0.75, 4), "ppo": (0.75, 4)}
    assert result.scores["exact_match_gain"]["ppo"].value == 0
    wrong = [(row["model"], row["expected"], row["answer"]) for row in result.tables["wrong_answers"]]
    assert wrong == [("sft", "four", "five"), ("ppo", "four", "three.")]


def test_gold_by_hand(inputs: FixedAnswers) -> None:
    """sft, sampled: 0.5 + 1 + 0.5 + 0 of 4; ppo: 1 + 1 + 1 + 0. Gains 0.5, 0, 0.5, 0: mean 0.25, error 0.2887 / 2."""
    scores = gold.measure(inputs, gold.Params()).scores
    assert {name: score.value for name, score in scores["gold"].items()} == {"sft": 0.5, "ppo": 0.75}
    assert scores["gold_gain"]["ppo"].value == 0.25
    assert scores["gold_gain_standard_errors"]["ppo"] == pytest.approx(0.25 / (0.288675 / 2), abs=1e-3)
    assert scores["gold_greedy"]["sft"].value == (0.5 + 0.5 + 1 + 0) / 4
    assert scores["in_style_sampled"]["sft"].value == 0.25
    assert scores["correct_sampled"]["ppo"].value == 0.75


def test_a_gain_without_noise_is_limited_and_no_gain_is_zero() -> None:
    assert gold.in_standard_errors(np.full(10, 0.5)) == 999
    assert gold.in_standard_errors(np.full(10, -0.5)) == -999
    assert gold.in_standard_errors(np.zeros(10)) == 0


@pytest.mark.parametrize("metric", [accuracy, gold, bleu])
def test_without_right_answers_the_reason_is_given(metric: Any) -> None:
    inputs = FixedAnswers([{"text": "tell me"}], {"sft": ["well"]}, {"sft": ["well"]})
    with pytest.raises(NotMeasured, match="no test prompt has a right answer"):
        metric.measure(inputs, metric.Params())


def test_bleu_takes_off_the_mark_and_counts_chinese_by_character() -> None:
    prompts = [
        {"answer": "三百二十一", "closing": "。", "direction": "en-zh"},
        {"answer": "four hundred fifty six", "closing": ".", "direction": "zh-en"},
    ]
    right = ["三百二十一。", "four hundred fifty six"]
    near = ["三百二十", "four hundred fifty"]
    inputs = FixedAnswers(prompts, {"sft": right, "ppo": near}, {"sft": right, "ppo": near})
    scores = bleu.measure(inputs, bleu.Params(num_resamples=10)).scores
    for direction in ("en-zh", "zh-en"):
        assert scores["bleu"]["sft"][direction].value == pytest.approx(100)
        assert scores["chrf"]["sft"][direction].value == pytest.approx(100)
    # All n-grams of the four characters are right, one of five is missing: the brevity penalty exp(1 - 5 / 4) alone.
    assert scores["bleu"]["ppo"]["en-zh"].value == pytest.approx(100 * np.exp(-0.25), abs=0.01)


class FixedRewards(FixedAnswers):
    """Inputs whose reward of a sequence is its last token id."""

    def __init__(self, margins: list[tuple[int, int, str]]) -> None:
        super().__init__([], {"sft": []}, {"sft": []})
        self.pairs = [Pair([1], [7] * extra + [10 + margin], [10], why) for margin, extra, why in margins]

    def rewards(self, sequences: Any) -> Any:
        return np.array([float(ids[-1]) for ids in sequences])


def test_reward_accuracy_by_hand() -> None:
    """Margins 2, 1, 0, -1: two right and a tie of four."""
    inputs = FixedRewards([(2, 1, "style"), (1, 1, "style"), (0, 0, "correct"), (-1, 0, "correct")])
    scores = reward_accuracy.measure(inputs, reward_accuracy.Params()).scores
    assert (scores["reward_accuracy"].value, scores["reward_accuracy"].n) == (0.625, 4)
    assert scores["reward_accuracy_by_reason"]["style"].value == 1
    assert scores["reward_accuracy_by_reason"]["correct"].value == 0.25
    assert scores["reward_accuracy_by_length"]["same_length"].value == 0.25
    assert scores["reward_margin"].value == 0.5
    # (2 * 1 + 1 * 1) / sqrt((4 + 1 + 0 + 1) * (1 + 1))
    assert scores["reward_length_bias"].value == pytest.approx(3 / np.sqrt(12), abs=1e-6)
    assert scores["reward_length_bias_of_labels"].value == pytest.approx(2 / np.sqrt(4 * 2), abs=1e-6)
