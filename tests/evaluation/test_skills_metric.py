"""The metric of a small assistant's skills on fixed answers, by hand."""

from typing import Any

import pytest

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


def test_other_prompts_are_named_in_a_note() -> None:
    inputs = FixedAnswers([{"text": "?", "answer": "a", "closing": "."}], {"sft": ["a"]}, {"sft": ["a"]})
    result = skills.measure(inputs, skills.Params())
    assert result.scores == {}
    assert "was not measured" in result.notes[0]
