"""The rungs below a target, and a forecast that is registered and compared with a result."""

from pathlib import Path

import pytest

from tasks.errors import BadInput, BadParams
from tasks.files import sha256
from tasks.ladder import rungs, tasks
from tests.ladder.test_fit import known_loss, runs


def test_rungs_are_smaller_shapes_with_heads_that_divide_the_width() -> None:
    """70 % of 8 layers and width 512 are 6 layers and width 352 (a multiple of 16), with 4 heads of 88."""
    shapes = rungs.shapes({"num_layers": 8, "width": 512, "num_heads": 8}, 3)
    assert shapes[0] == {"num_layers": 6, "width": 352, "num_heads": 4}
    assert [shape["width"] for shape in shapes] == [352, 288, 208]
    assert all(shape["width"] % (2 * shape["num_heads"]) == 0 for shape in shapes)
    with pytest.raises(BadParams, match="has only 1 smaller shapes"):
        rungs.shapes({"num_layers": 1, "width": 32, "num_heads": 1}, 2)


def test_budgets_are_halves_and_long_enough() -> None:
    assert rungs.budgets(32_000, 100, 3) == (80, 160, 320)
    with pytest.raises(BadParams, match="the shortest run of a rung would have 10 steps"):
        rungs.budgets(4_000, 100, 3)


def test_a_short_rung_has_a_shorter_warm_up() -> None:
    assert rungs.warmup(24, (200, 400)) == 24
    assert rungs.warmup(24, (45, 90, 180)) == 11


def test_runs_of_different_length_are_equal_until_the_shorter_one_decays() -> None:
    """Until the last stable step of 60 steps, wsd gives runs of 60 and 120 steps the same learning rates."""
    from tasks.training.loop.schedules import factor

    last = rungs.last_stable_step(60, 10)
    rates = [[factor("wsd", step, steps, 10, 0.0) for step in range(last)] for steps in (60, 120)]
    assert last == 50
    assert rates[0] == rates[1]
    assert factor("wsd", last + 1, 60, 10, 0.0) < 1


def test_each_rung_sees_as_many_tokens_per_weight_as_the_target() -> None:
    target = {"model": {"num_layers": 8, "width": 512, "num_heads": 8}, "tokens": 1e8, "tokens_per_step": 1000}
    weights = {"target": 1e6, "l6-w352": 5e5, "l4-w288": 2.5e5}
    plan = tasks.plan({**target, "warmup_steps": 10}, weights, 2, 2)
    assert [(rung.name, rung.steps) for rung in plan] == [("l6-w352", (25_000, 50_000)), ("l4-w288", (12_500, 25_000))]
    assert [rung.warmup for rung in plan] == [10, 10]


def test_a_registered_forecast_is_compared_with_the_result(tmp_path: Path) -> None:
    result = tasks.register(runs(noise=0.001), [], 8e7, 1e10, 0.01, tmp_path)
    assert result["sha256"] == sha256(tmp_path / "ladder/forecast.json")
    assert next(iter(tasks.lines(result))).startswith("leave-largest-out error 0.")
    assert "inside the 95 % interval" in tasks.compare(tmp_path, known_loss(8e7, 1e10), 8e7, 1e10)
    assert "OUTSIDE the 95 % interval" in tasks.compare(tmp_path, 3.0, 8e7, 1e10)
    with pytest.raises(BadInput, match="Register a forecast for this run"):
        tasks.compare(tmp_path, 3.0, 9e7, 1e10)
    with pytest.raises(BadInput, match=r"there is no .*forecast\.json"):
        tasks.compare(tmp_path / "other", 3.0, 8e7, 1e10)


def test_a_longer_run_adopts_the_newest_checkpoint_that_is_stable(tmp_path: Path) -> None:
    from tasks.training.loop import checkpoint

    for step in (10, 20, 30):
        checkpoint.write(tmp_path / "short" / f"{step:09d}", {"step": step}, "short")
    assert checkpoint.adopt(tmp_path / "short", tmp_path / "long", "long", 25) == 20
    state = checkpoint.load_newest(tmp_path / "long", "long")
    assert state is not None
    assert state["step"] == 20
    assert checkpoint.adopt(tmp_path / "short", tmp_path / "other", "other", 5) is None
