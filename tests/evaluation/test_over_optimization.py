from pathlib import Path
from typing import Any

import pytest

from tasks.errors import BadInput
from tasks.evaluation.metrics.over_optimization import Params, check_curve, draw_curve, read_curve


def curve(score: list[float], gold: list[float]) -> list[dict[str, Any]]:
    return [
        {"step": i + 1, "score": s, "gold": g, "kl": i / 10} for i, (s, g) in enumerate(zip(score, gold, strict=True))
    ]


def test_score_up_and_gold_down_is_called_out() -> None:
    """Gold is best over steps 3 and 4 and ends at 0.5 while the score rises all along."""
    rows = curve([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [0.6, 0.7, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5])
    assert check_curve(rows, Params()) == (
        "from step 4 to step 10 the reward model's score rose 3.500 -> 9.500 while the gold reward fell 0.900 -> 0.500"
    )
    assert check_curve(rows[:3], Params()) is None, "too few measurements"


@pytest.mark.parametrize(
    ("score", "gold"),
    [
        ([1, 2, 3, 4, 5], [0.5, 0.6, 0.7, 0.8, 0.9]),  # both rise
        ([1, 2, 3, 4, 5], [0.9, 0.9, 0.9, 0.88, 0.89]),  # gold falls by less than what is allowed
        ([5, 4, 3, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.5]),  # both fall: bad, but the score does not hide it
    ],
)
def test_other_curves_are_not(score: list[float], gold: list[float]) -> None:
    assert check_curve(curve(score, gold), Params()) is None


def test_a_curve_is_read_where_it_has_all_columns(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    assert read_curve(path) == []
    path.write_text("step,loss,score,gold,kl\n1,3,0.5,0.7,0.01\n2,3,,,\n3,3,0.6,0.8,0.02\n", encoding="utf-8")
    assert read_curve(path) == [
        {"step": 1, "score": 0.5, "gold": 0.7, "kl": 0.01},
        {"step": 3, "score": 0.6, "gold": 0.8, "kl": 0.02},
    ]
    path.write_text("step,score,gold,kl\n1,high,0.7,0.01\n", encoding="utf-8")
    with pytest.raises(BadInput, match="is not a training curve"):
        read_curve(path)


def test_the_figure_has_three_panels() -> None:
    assert len(draw_curve(curve([1, 2], [0.5, 0.6]), "sft").axes) == 3
