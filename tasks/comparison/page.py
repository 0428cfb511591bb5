"""A comparison as Markdown, and as one HTML page without scripts and without requests, in light and dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from tasks.comparison import curve_noise
from tasks.comparison.verdicts import Verdict
from tasks.pages import charts, document
from tasks.pages.markdown import cell, table

MAX_POINTS = 400  # of a curve that is drawn; longer ones are thinned evenly
MAX_CHARACTERS = 300  # of a prompt or answer
CURVES = ("loss", "validation_loss", "validation_gold", "validation_accuracy", "kl", "score")
OF_A_CORPUS = {"bleu", "chrf"}  # reports state them of all answers together; items have those of single answers

Points = Sequence[tuple[float, float]]
Curves = Mapping[tuple[str, str], Points]  # (stage, column) -> points


@dataclass(frozen=True)
class Section:
    """One comparison on a page. wins, losses: of the primary metric, to read."""

    a: str
    b: str
    primary: Verdict
    verdicts: Sequence[Verdict]
    examples: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


def headline(section: Section) -> str:
    """The verdict in one sentence."""
    verdict = section.primary
    link = "with" if verdict.outcome == "not comparable" else "to" if verdict.outcome == "equivalent" else "than"
    return f"{section.a} is {verdict.outcome} {link} {section.b} on {verdict.metric}: {verdict.reason}."


def markdown(sections: Sequence[Section], curves: Mapping[str, Curves] | None = None) -> str:
    """The comparisons as Markdown: verdict, all metrics, wins and losses, signal and noise of the learning curves."""
    lines = ["# Comparison", ""]
    for section in sections:
        lines += [f"## {section.a} and {section.b}", "", f"**{headline(section)}**", ""]
        lines += table(columns(section), [row(verdict) for verdict in section.verdicts])
        for title, rows in section.examples.items():
            lines += ["", f"### {title.capitalize()} of {section.a} ({section.primary.metric})", ""]
            lines += [
                f"- {cell(shorten(one['prompt']))}\n  - {section.a} ({one['score_a']:.3g}): {cell(shorten(one['a']))}"
                f"\n  - {section.b} ({one['score_b']:.3g}): {cell(shorten(one['b']))}"
                for one in rows
            ] or ["none"]
        lines.append("")
    if ratios := _noise_rows(curves or {}):
        lines += ["## Signal and noise of the learning curves", "", *table(_noise_columns(curves or {}), ratios), ""]
    return "\n".join(lines)


def html(sections: Sequence[Section], curves: Mapping[str, Curves]) -> str:
    """The same as a page, with the learning curves of all runs (label -> curves) on top of each other."""
    body = []
    for section in sections:
        body.append(f"<h2>{escape(section.a)} and {escape(section.b)}</h2>")
        body.append(f"<p><strong>{escape(headline(section))}</strong></p>")
        body.append(_table(columns(section), [row(verdict) for verdict in section.verdicts], "dense"))
        for title, rows in section.examples.items():
            body.append(
                f"<h3>{escape(title.capitalize())} of {escape(section.a)} ({escape(section.primary.metric)})</h3>"
            )
            cells = [
                (one["prompt"], one["a"], one["b"], f"{one['score_a']:.3g} : {one['score_b']:.3g}") for one in rows
            ]
            texts = [tuple(shorten(str(cell)) for cell in line) for line in cells]
            body.append(_table(("prompt", section.a, section.b, "scores"), texts) if rows else "<p>none</p>")
    if figures := overlaid(curves):
        body += ["<h2>Learning curves</h2>", f'<div class="grid">{"".join(figures)}</div>']
    if ratios := _noise_rows(curves):
        body += ["<h2>Signal and noise of the learning curves</h2>", _table(_noise_columns(curves), ratios)]
    return document("Comparison", "\n".join(body), "Two runs on the same test items, metric by metric.")


def columns(section: Section) -> tuple[str, ...]:
    """The names of the columns of the metrics."""
    return (
        "metric", "verdict", section.a, section.b, "difference", "95 % interval", "p", "p (Holm)", "n", "items needed",
        "why",
    )  # fmt: skip


def row(verdict: Verdict) -> tuple[str, ...]:
    """The cells of one metric, in the order of `columns`."""
    test = verdict.test
    if test is None:
        return (verdict.metric, verdict.outcome, *[""] * 8, verdict.reason)
    method = test.method + ("; means of single answers" if OF_A_CORPUS & set(verdict.metric.split(".")) else "")
    adjusted = "" if verdict.p_adjusted is None else f"{verdict.p_adjusted:.3g}"
    return (
        verdict.metric, verdict.outcome, f"{test.mean_a:.4g}", f"{test.mean_b:.4g}", f"{test.difference:+.4g}",
        f"{test.low:.4g} to {test.high:.4g}", f"{test.p_value:.3g}", adjusted, f"{test.n:,}",
        f"{test.items_needed:,}" if test.items_needed else "", method,
    )  # fmt: skip


def _noise_columns(curves: Mapping[str, Curves]) -> tuple[str, ...]:
    return ("stage", "metric", *curves, "range", "noise of checkpoints", "ratio")


def _noise_rows(curves: Mapping[str, Curves]) -> list[tuple[str, ...]]:
    """The cells of each validation metric: means of the last evaluations, and whether their range exceeds the noise."""
    return [
        (
            one.stage, one.metric, *("" if mean is None else f"{mean:.4g}" for mean in one.means),
            f"{one.signal:.3g}", f"{one.noise:.3g}", "" if one.value is None else f"{one.value:.3g}",
        )
        for one in curve_noise.ratios(curves)
    ]  # fmt: skip


def overlaid(curves: Mapping[str, Curves]) -> list[str]:
    """One figure for each curve that at least one run has, with the lines of all runs."""
    keys = sorted({key for own in curves.values() for key in own if key[1] in CURVES})
    figures = []
    for key in keys:
        lines = {label: own[key] for label, own in curves.items() if own.get(key)}
        thinned = {label: line[:: max(1, len(line) // MAX_POINTS)] for label, line in lines.items()}
        title = f"{key[0]}: {key[1].replace('_', ' ')}"
        figures.append(f'<div class="card"><h3>{escape(title)}</h3>{charts.line_chart(thinned)}</div>')
    return figures


def shorten(text: str) -> str:
    """The text with at most MAX_CHARACTERS; what was cut is marked."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ... ({len(text):,} characters)"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in rows)
    return f"<div class='scroll'><table class='{style}'><tr>{head}</tr>{body}</table></div>"
