"""The metric of a small assistant's skills on fixed answers, by hand."""

from typing import Any

import pytest

from tasks.evaluation.inputs import NotMeasured
from tasks.evaluation.metrics import skills
from tests.evaluation.small import FixedAnswers

REFUSAL = "I only know numbers"


def about(answer: str, skill: str, **metadata: Any) -> dict[str, Any]:
    return {"text": "?", "answer": answer, "closing": ".", "skill": skill, "turn": 1, **metadata}


PROMPTS = [
    about("seven", "number_words", held_out_range=True),
    about("七", "number_words", held_out_range=False),
    about("3 + 4 = 7", "arithmetic", turn=2, follow_up=True),
    about(REFUSAL, "refusal"),
]
RIGHT = ["seven.", "七.", "3 + 4 = 7.", f"{REFUSAL}."]
WRONG = ["seven. And much, much more that nobody wants.", "seven.", f"{REFUSAL}.", "I guess so."]


@pytest.fixture
def scores() -> dict[str, Any]:
    inputs = FixedAnswers(PROMPTS, {"sft": WRONG, "ppo": RIGHT}, {"sft": WRONG, "ppo": RIGHT})
    return skills.measure(inputs, skills.Params()).scores


def values(by_name: dict[str, Any]) -> dict[str, float]:
    return {name: score.value for name, score in by_name.items()}


def test_exact_match_by_group(scores: dict[str, Any]) -> None:
    assert values(scores["exact_match_by_skill"]["ppo"]) == {"arithmetic": 1, "number_words": 1, "refusal": 1}
    assert values(scores["exact_match_by_skill"]["sft"]) == {"arithmetic": 0, "number_words": 0, "refusal": 0}
    assert {name: score.n for name, score in scores["exact_match_by_turn"]["sft"].items()} == {"1": 3, "2": 1}
    assert set(scores["exact_match_by_held_out_range"]["sft"]) == {"yes", "no"}


def test_refusals(scores: dict[str, Any]) -> None:
    assert values(scores["refused"]) == {"sft": 0, "ppo": 1}
    assert values(scores["wrongly_refused"]) == {"sft": pytest.approx(1 / 3, abs=1e-6), "ppo": 0}


def test_gains_by_reason(scores: dict[str, Any]) -> None:
    """sft: two of four are honest, two of four are too long, one of three is in the wrong language."""
    assert values(scores["reason_share"]["sft"]) == {
        "honest": 0.5, "complete": 1, "brief": 0.5, "correct": 0, "follows": 0,
        "language": pytest.approx(2 / 3, abs=1e-6),
    }  # fmt: skip
    assert values(scores["reason_gain"]["ppo"])["honest"] == 0.5
    assert scores["reason_gain_standard_errors"]["ppo"]["complete"] == 0
    assert scores["reason_gain_standard_errors"]["ppo"]["honest"] == pytest.approx(0.5 / 0.288675, abs=1e-3)


def test_every_item_behind_the_scores_is_stored() -> None:
    inputs = FixedAnswers(PROMPTS, {"sft": WRONG, "ppo": RIGHT}, {"sft": WRONG, "ppo": RIGHT})
    result = skills.measure(inputs, skills.Params())
    for key in ("refused", "wrongly_refused"):
        values = [item.score for item in result.items if (item.score_name, item.model) == (key, "sft")]
        assert len(values) == result.scores[key]["sft"].n
        assert sum(values) / len(values) == pytest.approx(result.scores[key]["sft"].value, abs=1e-6)
    honest = [item.score for item in result.items if (item.score_name, item.model) == ("reason_share.honest", "sft")]
    assert sorted(honest) == [0, 0, 1, 1]
    groups = [item.group for item in result.items if item.score_name == "exact_match_by_skill" and item.model == "ppo"]
    assert groups == ["number_words", "number_words", "arithmetic", "refusal"]


def test_other_prompts_are_not_measured() -> None:
    inputs = FixedAnswers([{"text": "?", "answer": "a", "closing": "."}], {"sft": ["a"]}, {"sft": ["a"]})
    with pytest.raises(NotMeasured, match="not every test prompt states its skill"):
        skills.measure(inputs, skills.Params())
