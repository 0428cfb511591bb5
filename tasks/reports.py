"""Report: the counts, scores, tables and plots of one stage, as files that DVC versions and MLflow receives.

A report is the same for every run on the same inputs. Seconds, memory and rates differ from run to run; they go to
`Timings`, into a folder that no stage depends on.
"""

import csv
import io
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import BadInput
from tasks.files import SCHEMA_VERSION, read_json, rerun_advice, version_problem, with_version, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TIMINGS = Path(".run/timings")
ALPHA = 0.05  # all intervals are two-sided 95 % intervals
MAIN_SCORES = ("accuracy", "exact_match", "bits_per_byte")  # of a test set of the user, unless its params name another
NULL_SHARE = 0.9  # of the answers of a null model, at least so many are equal
MAX_OTHER_SHARE = 0.5  # where more of the answers of the other model are equal, perhaps most of the right ones are


@dataclass(frozen=True, slots=True)
class Score:
    """A value with its 95 % confidence interval, the number of items that it was measured on, and a baseline.

    baseline: what a simple method reaches on the same items; baseline_name: that method, such as "chance".
    """

    value: float
    low: float
    high: float
    n: int
    baseline: float | None = None
    baseline_name: str = ""

    @staticmethod
    def of_share(num_correct: float, n: int) -> "Score":
        """The share `num_correct` / n with the exact interval of Clopper and Pearson (1934).

        A tie may count as half a success. The interval contains the true share in at least 95 % of all cases for any
        share and any n. Wilson's and Jeffreys' contain it in 84 and 87 % of the cases for n = 10 and shares near 0
        and 1 (tests/evaluation/test_coverage.py).
        """
        from scipy.special import betaincinv

        assert n > 0
        num_wrong, tail = n - num_correct, ALPHA / 2
        low = float(betaincinv(num_correct, num_wrong + 1, tail)) if num_correct > 0 else 0.0
        high = float(betaincinv(num_correct + 1, num_wrong, 1 - tail)) if num_wrong > 0 else 1.0
        return Score(round(num_correct / n, 6), round(low, 6), round(high, 6), n)

    def compared_with(self, name: str, baseline: float) -> "Score":
        """The same score with a baseline."""
        return replace(self, baseline=round(float(baseline), 6), baseline_name=name)


def most_common_share(answers: Iterable[str]) -> float:
    """The share of the most common answer; 0 without any.

    It finds a null model: one with the same answer to whatever question, which a judge or reward model may prefer
    (arXiv:2410.07137).
    """
    counts = Counter(answers)
    return max(counts.values(), default=0) / max(counts.total(), 1)


def krippendorff_alpha(units: Sequence[Sequence[float]]) -> float | None:
    """How much annotators agree beyond chance (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    units: the values, such as 0 and 1, that different annotators gave to the same item; an item with fewer than two is
    not used. 1: perfect agreement; 0: as by chance; None where all values are equal, so that it is not defined.
    """
    pairable = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[float] = sum(pairable, Counter())
    num_values = sum(totals.values())
    if len(totals) < 2:
        return None
    observed = sum(count * (unit.total() - count) / (unit.total() - 1) for unit in pairable for count in unit.values())
    expected = sum(count * (num_values - count) for count in totals.values()) / (num_values - 1)
    return 1 - observed / expected


@dataclass
class Report:
    """The results of one stage; `write` stores them below a folder as <stage>.json and <stage>/."""

    stage: str
    counts: dict[str, int] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)  # Score, dict of Scores by model, or number
    notes: list[str] = field(default_factory=list)  # warnings for the user, the most important first
    warnings: list[str] = field(default_factory=list)  # about what was not kept; written before the notes
    summary: str = ""  # one line for people: what was kept, and the most frequent reasons for the rest
    highlights: tuple[str, ...] = ()  # names of the counts and scores in the closing table of a run, in order
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # name -> rows; written as <name>.csv
    figures: dict[str, "Figure"] = field(default_factory=dict)  # written as <name>.png

    def write(self, folder: Path) -> None:
        """Write <folder>/<stage>/*.csv and *.png, and <folder>/<stage>.json last."""
        stage_folder = folder / self.stage
        stage_folder.mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            write_csv(stage_folder / f"{name}.csv", rows)
        for name, figure in self.figures.items():
            # Without the version of matplotlib in its metadata, the same figure has the same bytes everywhere.
            figure.savefig(stage_folder / f"{name}.png", dpi=110, metadata={"Software": None})
        body = {name: _as_json(score) for name, score in self.scores.items()}
        if self.counts:
            body["counts"] = self.counts
        if self.warnings or self.notes:
            body["notes"] = [*self.warnings, *self.notes]
        if self.summary:
            body["summary"] = self.summary
        if self.highlights:
            body["highlights"] = list(self.highlights)
        write_json(folder / f"{self.stage}.json", with_version("report", body))


class Timings:
    """Seconds by part, peak memory and rates of one run of a stage."""

    def __init__(self, stage: str, folder: Path = TIMINGS) -> None:
        self.stage, self.folder = stage, folder
        self.values: dict[str, float] = {}

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the seconds of the block to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.values[part] = self.values.get(part, 0.0) + time.perf_counter() - start

    def write(self) -> None:
        """Write <folder>/<stage>.json."""
        write_json(self.folder / f"{self.stage}.json", self.values)


def read(path: Path) -> dict[str, Any]:
    """Return the scores, counts and notes of a report. Raises BadInput for damage or another schema version."""
    body = read_json(path)
    if not isinstance(body, dict):
        raise BadInput(f"{path} is damaged: it is no JSON object. {rerun_advice(path)}")
    if problem := version_problem("report", body, path):
        raise BadInput(f"{problem} {rerun_advice(path)}")
    del body[SCHEMA_VERSION]
    return body


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as a CSV file, which `dvc plots` can read; an empty list gives an empty file."""
    names = list(rows[0]) if rows else []
    line = io.StringIO(newline="")
    # The module csv quotes a value with a carriage return, which would otherwise end the line, only with "\r\n".
    writer = csv.DictWriter(line, names, lineterminator="\r\n")
    with open(path, "w", encoding="utf-8", newline="") as file:
        for row in ({name: name for name in names}, *rows):
            writer.writerow(row)
            file.write(line.getvalue().removesuffix("\r\n") + "\n")
            line.seek(0)
            line.truncate()


def main_score(test_set: Mapping[str, Any]) -> str | None:
    """The name of the main score of a test set of the user, from its part of the report of evaluation."""
    metrics = test_set.get("about", {}).get("params", {}).get("metrics", ())
    return next((name for name in (*metrics, *MAIN_SCORES) if name in test_set), None)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file of a report; an empty list if there is no file. Raises BadInput for damage."""
    if not path.is_file():
        return []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is damaged: it is no CSV file ({error}). {rerun_advice(path)}") from error


def _as_json(score: Any) -> Any:
    if isinstance(score, Score):
        body: dict[str, Any] = {"value": score.value, "low": score.low, "high": score.high, "n": score.n}
        if score.baseline is not None:
            body |= {"baseline": score.baseline, "baseline_name": score.baseline_name}
        return body
    if isinstance(score, Mapping):
        return {name: _as_json(part) for name, part in score.items()}
    return score
