"""The report of a run with the decision about its model at the top: data/promotion/report.html.

The stage evaluation writes its page before the decision, and DVC keeps that page. This one adds what is known after
the run: the verdict, the champion's scores beside those of the model, the run, the commit and the data.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import reports
from tasks.comparison import REPORT, Subject, compare
from tasks.evaluation import page
from tasks.evaluation.score_table import Row
from tasks.pages.charts import format_number
from tasks.pages.markdown import table
from tasks.pipeline_stages import PipelineStage
from tasks.promotion import versions
from tasks.promotion.params import Params
from tasks.promotion.promoting import Outcome, root_of

FILE = "report.html"
MAX_MARKDOWN_ROWS = 12


def write(
    outcome: Outcome, sentence: str, data: Path, params: Params, stages: Sequence[PipelineStage], reference: str,
    origin: Mapping[str, str],
) -> Path:  # fmt: skip
    """Write the page and, beside it, a short version in Markdown. Returns the path of the page. Raises BadInput.

    sentence: the decision in words; reference: the model that the policies are compared with; origin: run, commit ...
    """
    path, verdict = root_of(data) / FILE, verdict_of(outcome, sentence, data, params)
    page.write(data / "reports", path, stages, reference, verdict, origin)
    report = reports.read(data / "reports" / REPORT)
    text = markdown(verdict, report, page.score_rows(report, stages, reference))
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return path


def verdict_of(outcome: Outcome, sentence: str, data: Path, params: Params) -> page.Verdict:
    """What the page states first. sentence: the decision in words. Raises BadInput for damaged reports."""
    opponent = _opponent(outcome)
    is_good = outcome.decision is not None and not outcome.decision.problems
    if outcome.version is None or opponent is None:
        return page.Verdict(sentence, is_good)
    candidate, champion = (
        versions.subject(root_of(data), version)
        for version in (outcome.version, versions.read(root_of(data), opponent))
    )
    name = f"Version {opponent}{' was the champion before' if outcome.promoted else ' is the champion'}"
    return page.Verdict(sentence, is_good, name, rows(candidate, champion, params))


def _opponent(outcome: Outcome) -> int | None:
    """The number of the champion that the model was compared with; None if there was none."""
    history = outcome.state.history
    number = (history[-2] if len(history) > 1 else None) if outcome.promoted else outcome.state.champion
    return None if outcome.version and outcome.version.number == number else number


def rows(candidate: Subject, champion: Subject, params: Params) -> list[tuple[str, float, float, str, str]]:
    """Metric, score of the model, score of the champion, outcome and reason of each metric that both have measured."""
    return [
        (verdict.metric, verdict.test.mean_a, verdict.test.mean_b, verdict.outcome, verdict.reason)
        for verdict in compare(candidate, champion, settings=params.settings)[0]
        if verdict.test is not None
    ]


def markdown(verdict: page.Verdict, report: Mapping[str, Any], scores: Sequence[Row] = ()) -> str:
    """The verdict, the comparison with the champion and the main scores, for Prefect's page."""
    lines = [verdict.sentence]
    if verdict.rows:
        beside = [
            (metric, format_number(model), format_number(champion), outcome)
            for metric, model, champion, outcome, _ in verdict.rows
        ]
        lines += [
            "",
            verdict.champion,
            "",
            *table(("metric", "model", "champion", "verdict"), beside, MAX_MARKDOWN_ROWS),
        ]
    if main := [_cells(row) for row in scores if row.is_main]:
        columns = ("score", "value", "95 % interval", "n", "baseline")
        lines += ["", *table(columns, main, MAX_MARKDOWN_ROWS)]
    return "\n".join(lines + [f"\n{note}" for note in report.get("notes", [])])


def _cells(row: Row) -> tuple[Any, ...]:
    value, low, high = map(format_number, (row.score.value, row.score.low, row.score.high))
    baseline = "" if row.score.baseline is None else f"{format_number(row.score.baseline)} ({row.score.baseline_name})"
    return row.name, value, f"{low} to {high}", row.score.n, baseline
