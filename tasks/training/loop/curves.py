"""The report of a training stage: the step log as a table, its curves as a figure, its last values as scores."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.reports import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

StepLog = Sequence[Mapping[str, Any]]

MAX_PANELS = 9
RATE = "learning_rate"


def report(stage: str, rows: StepLog, counts: Mapping[str, int] | None = None, notes: Sequence[str] = ()) -> Report:
    """The report of a stage with the step log `rows`."""
    scores = {key: _last(rows, key) for key in rows[0] if key not in ("step", "learning_rate")}
    return Report(
        stage,
        counts={"steps": int(rows[-1]["step"]), **(counts or {})},
        scores=scores,
        notes=list(notes),
        tables={"steps": [dict(row) for row in rows]},
        figures={"steps": figure(rows)},
    )


def figure(rows: StepLog) -> "Figure":
    """At most MAX_PANELS panels over the steps, one per column of the step log, the learning rate always included."""
    from matplotlib.figure import Figure

    rate = [name for name in rows[0] if name == RATE]
    names = [name for name in rows[0] if name not in ("step", RATE)][: MAX_PANELS - len(rate)] + rate
    columns = max(1, min(3, len(names)))
    height = max(1, -(-len(names) // columns))
    drawing = Figure(figsize=(4 * columns, 2.6 * height), layout="constrained")
    for number, name in enumerate(names):
        axes = drawing.add_subplot(height, columns, number + 1)
        points = [(row["step"], row[name]) for row in rows if row[name] is not None]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "", linewidth=1)
        axes.set_title(name.replace("_", " "), fontsize=10)
        axes.grid(alpha=0.3)
    return drawing


def _last(rows: StepLog, key: str) -> Any:
    return next((row[key] for row in reversed(rows) if row[key] is not None and math.isfinite(row[key])), None)
