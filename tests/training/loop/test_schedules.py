"""Learning-rate schedules: values computed by hand, and their curve in the report."""

import numpy as np
import pytest

from tasks.training.loop import curves, schedules


def rates(name: schedules.Name, steps: int = 10, warmup: int = 0, floor: float = 0.0) -> list[float]:
    return [schedules.factor(name, step, steps, warmup, floor) for step in range(steps)]


def test_warm_up_is_linear_and_ends_at_one() -> None:
    assert rates("constant", 6, 4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_shapes_by_hand() -> None:
    assert rates("linear", 4) == [1, 0.75, 0.5, 0.25]
    assert rates("cosine", 4) == pytest.approx([1, 0.8535534, 0.5, 0.1464466])
    assert rates("wsd") == pytest.approx([1] * 9 + [0.5])
    assert rates("step", 8) == pytest.approx([1] * 4 + [0.1] * 2 + [0.01] * 2)


def test_the_floor_is_reached_by_the_end() -> None:
    assert rates("linear", 1000, floor=0.1)[-1] == pytest.approx(0.1, abs=1e-2)


@pytest.mark.parametrize("name", schedules.SHAPES)
def test_each_is_drawn_in_the_report(name: schedules.Name) -> None:
    """The learning rate has a panel even if a stage logs more columns than there are panels."""
    expected = rates(name, 20, warmup=3)
    log = [
        {"step": step + 1, **{f"number_{i}": 0.5 for i in range(12)}, "gradient_norm": 1.0, "learning_rate": rate}
        for step, rate in enumerate(expected)
    ]
    axes = curves.figure(log).axes
    assert len(axes) == curves.MAX_PANELS
    panel = next(one for one in axes if one.get_title() == "learning rate")
    assert np.asarray(panel.lines[0].get_ydata()).tolist() == expected
