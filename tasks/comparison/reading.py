"""What a run has measured: its report, its items, and its learning curves, from a folder of reports.

A folder of reports is data/reports or a copy of it: evaluation.json, evaluation/items/*.parquet, <stage>/steps.csv.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tasks import reports
from tasks.errors import BadInput

REPORT = "evaluation.json"
ITEMS = Path("evaluation", "items")
MEASURED = "measured"  # the key of the report that states which bytes were measured, on which test data
COLUMNS = ("score_name", "model", "id", "group", "prompt", "answer", "score")


class ItemKey(NamedTuple):
    """Which item: its content, and which of several items with equal content."""

    id: str
    occurrence: int


class Measurement(NamedTuple):
    """The score of one item, with the texts that a reader needs to judge it."""

    group: str
    prompt: str
    answer: str
    score: float


Items = Mapping[ItemKey, Measurement]


@dataclass(frozen=True)
class Subject:
    """One side of a comparison: the reports of a run, and which of its models is meant (None: each of them)."""

    label: str
    folder: Path
    model: str | None = None
    digest: str = ""  # sha256 of the manifest of the model, where it is known from elsewhere
    report: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[tuple[str, str], Items] = field(default_factory=dict)  # (score name, model) -> items

    @property
    def measured(self) -> Mapping[str, Any]:
        """Which models and test data the report is about; empty for a report of an older version."""
        return dict(self.report.get(MEASURED, {}))

    def digest_of(self, model: str) -> str:
        """The sha256 of the manifest of a model that was measured; empty if the report does not state it."""
        return str(self.measured.get("models", {}).get(model, ""))


def read(label: str, folder: Path, model: str | None = None) -> Subject:
    """Read the report and the items below `folder`, a folder of reports. Raises BadInput if something is missing."""
    if not (folder / REPORT).is_file():
        raise BadInput(
            f"{label}: there is no {folder / REPORT}, so that nothing can be compared. Run evaluation there first "
            "(`python -m flows.pipeline`)."
        )
    items = read_items(folder / ITEMS)
    if not items:
        raise BadInput(
            f"{label}: there are no items in {folder / ITEMS}. Runs are compared item by item; evaluation writes the "
            "items, but an older version did not. Run it again: dvc repro --force --single-item evaluation"
        )
    models = {name for _, name in items}
    if model is not None and model not in models:
        names = ", ".join(sorted(name for name in models if "_vs_" not in name))
        raise BadInput(f"{label}: {folder / REPORT} has measured no model {model!r}; it has measured: {names}")
    report = reports.read(folder / REPORT)
    if not isinstance(report.get(MEASURED, {}), dict):
        raise BadInput(f"{label}: {folder / REPORT} is damaged: {MEASURED!r} is no JSON object. Run evaluation again.")
    return Subject(label, folder, model, report=report, items=items)


def read_items(folder: Path) -> dict[tuple[str, str], dict[ItemKey, Measurement]]:
    """The items below `folder` by score name and model. Raises BadInput for a file that is no table of items."""
    import pyarrow as pa
    from pyarrow import parquet

    items: dict[tuple[str, str], dict[ItemKey, Measurement]] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = parquet.read_table(path, columns=list(COLUMNS))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise BadInput(f"{path} cannot be read as a table of items: {str(error).splitlines()[0]}") from error
        counts: dict[tuple[str, str, str], int] = {}
        for score_name, model, key, *rest in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True):
            occurrence = counts.get((score_name, model, key), 0)
            counts[score_name, model, key] = occurrence + 1
            items.setdefault((score_name, model), {})[ItemKey(key, occurrence)] = Measurement(*rest)
    return items


def curves(folder: Path) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """(stage, column) -> the points (step, value) of the step logs below a folder of reports. Raises BadInput."""
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for path in sorted(folder.glob("*/steps.csv")):
        for row in reports.read_csv(path):
            step = _number(row.pop("step", None))
            for column, cell in row.items():
                value = _number(cell)
                if step is not None and value is not None:
                    points.setdefault((path.parent.name, column), []).append((step, value))
    return points


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if value - value == 0 else None  # infinity and NaN cannot be drawn
