"""The report of curation: what remains after each step, reasons for drops, signals with their bounds, and examples."""

import html
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tasks import kept_shares, tables
from tasks.curation import filtering
from tasks.curation.arrays import Float64Array, Int64Array
from tasks.curation.corpus import Corpus, Encoded, encode_column
from tasks.curation.filtering import Bound
from tasks.pages import bars, charts, document, markdown_table, table
from tasks.reports import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_EXAMPLES, EXAMPLE_CHARACTERS, MAX_PANELS = 3, 400, 24
MAX_MEASURED_AGAIN = 1000  # kept documents whose texts are read for the examples of a rule
BLOCK_ROWS = 1 << 16  # documents whose signals are compared again at once
MAX_LANGUAGE_WARNINGS = 5  # of the languages that lose most documents; a corpus of web pages has dozens
HEADINGS = {
    "funnel": "What remains after each step",
    "reasons": "Documents dropped, by reason",
    "signals": "Signals and their bounds",
    "languages": "Languages",
    "sources": "Sources",
    "parts": "Head, middle and tail of the documents that reached a filter",
    "clusters": "Clusters of duplicates, by size",
    "boilerplate": "Passages that many texts share, which are no evidence of contamination",
    "rehydration": "Copies of documents that had duplicates",
}


def build(corpus: Corpus, masked: Mapping[str, int], records: Mapping[str, Counter[str]]) -> Report:
    """Return the counts, tables and figures of the stage; kept + dropped = read.

    masked: kind of personal data -> number of replacements; records: conversations or preferences -> outcome -> number.
    """
    kept, sizes = corpus.kept, corpus.signals.num_bytes
    counts = {"read": len(kept), "kept": int(kept.sum()), "dropped": int((~kept).sum())}
    counts |= {"bytes_read": int(sizes.sum()), "bytes_kept": int(sizes[kept].sum())}
    for name, outcome in records.items():
        counts |= {f"{name}_{key.replace('.', '_')}": n for key, n in sorted(outcome.items())}
    counts |= {f"masked_{kind}": n for kind, n in sorted(masked.items())}
    counts |= dict(sorted(corpus.counts.items()))
    report = Report("curation", counts=counts)
    report.tables["funnel"] = funnel(corpus)
    report.tables["reasons"] = [{"reason": reason, "documents": n} for reason, n in corpus.by_reason()]
    report.tables["languages"] = shares(corpus, corpus.languages, "language")
    report.tables["sources"] = shares(corpus, encode_column(corpus.columns["source"]), "source")
    if corpus.parts:
        report.tables["parts"] = parts(corpus)
    report.tables["clusters"] = clusters(corpus)
    if corpus.boilerplate:
        report.tables["boilerplate"] = corpus.boilerplate
    if corpus.copy_rules:
        report.tables["rehydration"] = corpus.copy_rules
    report.figures = {"funnel": draw_funnel(report), "reasons": draw_reasons(report), "signals": draw_signals(corpus)}
    return report


def add_summary(
    report: Report, corpus: Corpus, records: Mapping[str, Counter[str]], params: kept_shares.KeptShareParams
) -> None:
    """Add the line that is printed at the end, and a warning for each source, language and table that loses much."""
    counts, reasons = report.counts, dict(corpus.by_reason())
    outcomes = {name: _outcome(counts_by_reason) for name, counts_by_reason in records.items()}
    text = (
        f"curation kept {counts['kept']:,} of {counts['read']:,} documents "
        f"({kept_shares.share_text(counts['kept'], counts['read'])}), "
        f"{kept_shares.share_text(counts['bytes_kept'], counts['bytes_read'])} of bytes"
    )
    if reasons:
        text += f"; top reasons: {kept_shares.list_counts(reasons)}"
    for name, (num_kept, num_read, record_reasons) in outcomes.items():
        if num_read:
            because = f": {kept_shares.list_counts(record_reasons)}" if num_kept < num_read else ""
            text += f"; {num_kept:,} of {num_read:,} {name}{because}"
    report.summary = f"{text}; see data/reports/curation/curation.html"
    report.highlights = (
        *("read", "kept", "bytes_read", "bytes_kept"),
        *(f"{name}_{key}" for name in records for key in ("read", "kept")),
    )
    sources = encode_column(corpus.columns["source"])
    tables_of_records = {name: outcome for name, outcome in outcomes.items() if outcome[1]}
    report.warnings += kept_shares.warn_of_low_shares("source", _outcomes(corpus, sources), params, "documents")
    of_languages = kept_shares.warn_of_low_shares("language", _outcomes(corpus, corpus.languages), params, "documents")
    report.warnings += kept_shares.shorten(of_languages, "data/reports/curation/languages.csv", MAX_LANGUAGE_WARNINGS)
    report.warnings += kept_shares.warn_of_low_shares("table", tables_of_records, params, "records")


def _outcome(counts: Mapping[str, int]) -> kept_shares.Outcome:
    reasons = {name: n for name, n in counts.items() if name not in ("read", "kept") and not name.startswith("masked_")}
    return counts.get("kept", 0), counts.get("read", 0), reasons


def _outcomes(corpus: Corpus, values: Encoded) -> dict[str, kept_shares.Outcome]:
    """Return value of a column -> number of documents kept, number read, and the reasons of the others."""
    kept, (names, codes) = corpus.kept, values
    outcomes: dict[str, kept_shares.Outcome] = {}
    for code, name in enumerate(names):
        has_value = codes == code
        outcomes[name] = int((has_value & kept).sum()), int(has_value.sum()), corpus.reasons.count(has_value)
    return outcomes


def funnel(corpus: Corpus) -> list[dict[str, Any]]:
    """Return the documents and bytes that remain after each filter and each step of curation, in order."""
    occurring = {reason.split(".")[0] for reason in corpus.reasons.count()}
    steps = list(dict.fromkeys(bound.reason.split(".")[0] for bound in corpus.bounds))
    steps += ["deliveries"] if "deliveries" in occurring else ["exact", "minhash"]
    steps += [*(["repeats"] if "repeats" in occurring else []), "contamination"]
    remaining, rows = np.ones(len(corpus.reasons), np.bool_), []
    for step in ["read", *steps]:
        remaining &= ~corpus.reasons.in_steps({step})
        size = int(corpus.signals.num_bytes[remaining].sum())
        rows.append({"step": step, "documents": int(remaining.sum()), "bytes": size})
    return rows


def shares(corpus: Corpus, values: Encoded, label: str) -> list[dict[str, Any]]:
    """Return documents and bytes read and kept for each value of a column, the most frequent value first."""
    kept, sizes, rows = corpus.kept, corpus.signals.num_bytes, []
    for code, name in enumerate(values[0]):
        has_value = values[1] == code
        counts = {"read": int(has_value.sum()), "kept": int((has_value & kept).sum())}
        rows.append({label: name, **counts, "bytes_kept": int(sizes[has_value & kept].sum())})
    return sorted(rows, key=lambda row: (-row["read"], row[label]))


def parts(corpus: Corpus) -> list[dict[str, Any]]:
    """Return documents judged and dropped for each rule that counts parts, language, and part of the distribution."""
    rows = []
    for reason, language, part in sorted({key[:3] for key in corpus.parts}):
        dropped, kept = (corpus.parts[reason, language, part, is_dropped] for is_dropped in (True, False))
        names = {"rule": reason, "language": language, "part": part or "no words"}
        rows.append({**names, "documents": dropped + kept, "dropped": dropped})
    return rows


def clusters(corpus: Corpus) -> list[dict[str, int]]:
    """Return the number of clusters of duplicates of each size."""
    originals = corpus.original_rows == np.arange(len(corpus.original_rows))
    sizes, counts = np.unique(corpus.cluster_sizes()[originals], return_counts=True)
    return [{"size": int(size), "clusters": int(n)} for size, n in zip(sizes, counts, strict=True)]


def draw_funnel(report: Report) -> "Figure":
    """Draw the bytes that remain after each step."""
    rows = report.tables["funnel"][::-1]  # the lowest bar is drawn first
    figure, axes = _figure(8, 0.4 * len(rows) + 1)
    bars = axes.barh([row["step"] for row in rows], [row["bytes"] / 1e6 for row in rows], color="#4477aa")
    axes.bar_label(bars, [f"{row['documents']:,} documents" for row in rows], padding=3, fontsize=8)
    axes.set(xlabel="remaining text (MB)", xlim=(0, 1.3 * max(row["bytes"] / 1e6 for row in rows) or 1))
    return figure


def draw_reasons(report: Report) -> "Figure":
    """Draw the number of documents dropped for each reason."""
    rows = report.tables["reasons"][:30][::-1] or [{"reason": "no document dropped", "documents": 0}]
    figure, axes = _figure(8, 0.26 * len(rows) + 1)
    bars = axes.barh([row["reason"] for row in rows], [row["documents"] for row in rows], color="#cc6677")
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.set(xlabel="dropped documents")
    return figure


def _histograms(corpus: Corpus) -> Iterator[tuple[str, Int64Array, Float64Array, list[float]]]:
    """Name, counts, edges and bounds (of all languages) of each signal that a filter compares with a bound."""
    languages = set(corpus.languages[0])
    for name in [name for name in dict.fromkeys(bound.signal for bound in corpus.bounds) if name][:MAX_PANELS]:
        values = np.asarray(getattr(corpus.signals, name), np.float64)
        if not len(values):
            continue
        bounds = sorted(
            {b.bound for b in corpus.bounds if b.signal == name and b.bound is not None and b.language in languages}
        )
        # The axis ends at the 99 % quantile, because a few extreme documents would compress all others into one bin. It
        # is extended to bounds within reach; a bound such as 100,000 words would compress them, too.
        top = max([float(np.quantile(values, 0.99)), *(1.1 * b for b in bounds if b < 10 * values.max() + 1)]) or 1.0
        counts, edges = np.histogram(np.minimum(values, top), bins=40, range=(0, top))
        yield name, counts, edges, [bound for bound in bounds if 0 <= bound <= top]


def draw_signals(corpus: Corpus) -> "Figure":
    """Draw a histogram of each signal that a filter compares with a bound, with the bounds of all languages."""
    panels = list(_histograms(corpus))
    num_rows = -(-max(len(panels), 1) // 4)
    figure, _ = _figure(14, 2.2 * num_rows)
    figure.clear()
    for position, (name, counts, edges, bounds) in enumerate(panels, start=1):
        axes = figure.add_subplot(num_rows, 4, position)
        axes.stairs(np.log10(1 + counts), edges, fill=True, color="#4477aa")
        for bound in bounds:
            axes.axvline(bound, color="#cc6677", linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=6)
    figure.supylabel("log10(1 + documents)", fontsize=8)
    return figure


def markdown(report: Report, page: Path) -> str:
    """Return a summary in Markdown: what remains after each step, and the most frequent reasons, languages, sources."""
    counts = report.counts
    lines = [f"# Curation: {counts['kept']:,} of {counts['read']:,} documents kept", f"The complete report: `{page}`"]
    for name in ("funnel", "reasons", "languages", "sources"):
        rows = report.tables[name][:20]
        if rows:
            lines += ["", f"## {HEADINGS[name]}", *markdown_table(list(rows[0]), [row.values() for row in rows])]
    return "\n".join(lines)


def write_page(
    folder: Path, corpus: Corpus, report: Report, documents: Path, records: Mapping[str, Counter[str]]
) -> None:
    """Write curation.html: what remains, the tables, and for each reason dropped documents beside kept ones."""
    body = [f'<p class="note">{html.escape(note)}</p>' for note in report.warnings]
    steps = [(row["step"], row["bytes"], f"{row['documents']:,} documents") for row in report.tables["funnel"]]
    body += [f"<h2>{HEADINGS['funnel']}</h2><p>The length of a bar is the size of the text.</p>{bars(steps)}"]
    body += [_funnel_of_records(name, counts) for name, counts in records.items() if counts.get("read")]
    reasons = [(row["reason"], row["documents"], f"{row['documents']:,}") for row in report.tables["reasons"]]
    body += [f"<h2>{HEADINGS['reasons']}</h2>{bars(reasons, is_bad=True)}", _signals(corpus)]
    shown = {name: rows for name, rows in report.tables.items() if name not in ("reasons", "funnel")}
    body += [f"<h2>{HEADINGS[name]}</h2>{table(rows)}" for name, rows in shown.items()]
    chosen = {reason: examples(corpus, reason, documents) for reason, _ in corpus.by_reason()}
    texts = _texts(documents, np.unique(np.concatenate([np.empty(0, np.int64), *sum(chosen.values(), ())])))
    for reason, (dropped, kept) in chosen.items():
        body.append(f'<h2>Examples of {html.escape(reason)}</h2><div class="sides">')
        for outcome, rows in (("dropped", dropped), ("kept", kept)):
            shown_texts = [_example(corpus, int(row), texts[int(row)], outcome) for row in rows]
            body.append(f"<div><h3>{outcome}</h3>{''.join(shown_texts)}</div>")
        body.append("</div>")
    (folder / "curation.html").write_text(document("Curation", "\n".join(body), report.summary), encoding="utf-8")


def _funnel_of_records(name: str, counts: Mapping[str, int]) -> str:
    """Conversations or preferences: how many were read and kept, and why the others were not."""
    num_kept, num_read, reasons = _outcome(counts)
    rows = [("read", num_read, f"{num_read:,} {name}"), ("kept", num_kept, f"{num_kept:,} {name}")]
    dropped = [(reason, n, f"{n:,}") for reason, n in sorted(reasons.items(), key=lambda item: -item[1])]
    return f"<h2>{name.capitalize()}</h2>{bars(rows)}{bars(dropped, is_bad=True) if dropped else ''}"


def _signals(corpus: Corpus) -> str:
    """A histogram of each signal with its bounds."""
    text = "Documents, on a logarithmic scale, by the value of each signal; lines are bounds of the filters."
    figures = [
        f"<figure><figcaption>{html.escape(name.replace('_', ' '))}</figcaption>"
        f"{charts.histogram(np.log10(1 + counts).tolist(), edges.tolist(), bounds)}</figure>"
        for name, counts, edges, bounds in _histograms(corpus)
    ]
    return f'<h2>{HEADINGS["signals"]}</h2><p>{text}</p><div class="small">{"".join(figures)}</div>' if figures else ""


def examples(corpus: Corpus, reason: str, documents: Path) -> tuple[Int64Array, Int64Array]:
    """Return some rows that were dropped for a reason, evenly spaced, and some kept rows to compare them with.

    If the rule has a bound, these are the kept documents with the values closest to it; of a rule that reads texts, the
    closest of MAX_MEASURED_AGAIN kept documents, which are evenly spaced. For duplicates, they are the documents that
    were kept instead.
    """
    rows = corpus.reasons.rows(reason)
    dropped = rows[np.unique(np.linspace(0, len(rows) - 1, NUM_EXAMPLES).astype(int))]
    for bound in corpus.bounds:
        if bound.reason == reason and bound.bound is not None:
            kept = np.flatnonzero(corpus.kept & corpus.filtered_as(bound.language))
            values = _values(corpus, bound, kept)
            if values is None:
                kept = kept[np.unique(np.linspace(0, len(kept) - 1, MAX_MEASURED_AGAIN).astype(int))]
                values = _measure_again(corpus, bound, kept, documents)
            closest = np.argsort(np.abs(values - bound.bound), kind="stable")[:NUM_EXAMPLES]
            return dropped, kept[closest]
    originals = np.unique(corpus.original_rows[dropped])
    return dropped, originals[~np.isin(originals, dropped)]


def _values(corpus: Corpus, bound: Bound, rows: Int64Array) -> Float64Array | None:
    """Return the values of some documents that a rule compares with its bound; None if they need the texts again."""
    if not len(rows):
        return np.empty(0)
    if bound.signal:
        return np.asarray(getattr(corpus.signals, bound.signal)[rows], np.float64)
    name = bound.reason.split(".")[0]
    params = corpus.filter_params[bound.language][name]
    if filtering.needs_texts(name, params):
        return None
    no_texts = pa.array([], pa.large_string())
    values = []
    for first in range(0, len(rows), BLOCK_ROWS):
        signals = corpus.signals.take(rows[first : first + BLOCK_ROWS])
        values.append(dict(filtering.verdicts(name, params, signals, no_texts))[bound.reason].values)
    return np.concatenate(values)


def _measure_again(corpus: Corpus, bound: Bound, rows: Int64Array, documents: Path) -> Float64Array:
    """Return the values of documents that a rule, which reads their texts, compares with its bound, [rows]."""
    name, texts = bound.reason.split(".")[0], _texts(documents, rows)
    in_order = pa.array([texts[row][1] for row in rows.tolist()], pa.large_string())
    params = corpus.filter_params[bound.language][name]
    measured = dict(filtering.verdicts(name, params, corpus.signals.take(rows), in_order))
    return measured[bound.reason].values if bound.reason in measured else np.zeros(len(rows))  # it reads metadata


def _figure(width: float, height: float) -> tuple["Figure", Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="tight")
    return figure, figure.add_subplot()


def _texts(documents: Path, rows: Int64Array) -> dict[int, tuple[str, str]]:
    """Return row -> (id, text) of some documents, given by their sorted rows."""
    texts: dict[int, tuple[str, str]] = {}
    first = 0
    for part in tables.batches(documents, columns=["id", "text"]):
        part_rows = rows[slice(*np.searchsorted(rows, [first, first + part.num_rows]))]
        records = part.take(pa.array(part_rows - first)).to_pylist()
        for row, record in zip(part_rows.tolist(), records, strict=True):
            texts[row] = (record["id"], record["text"])
        first += part.num_rows
    return texts


def _example(corpus: Corpus, row: int, record: tuple[str, str], outcome: str) -> str:
    """Return one document as HTML: its outcome with the deciding value, its id, and the beginning of its text."""
    document_id, text = record
    value = "" if np.isnan(corpus.values[row]) else f" at {corpus.values[row]:.4g}"
    value += f", because of {html.escape(corpus.evidence[row])}" if row in corpus.evidence else ""
    excerpt = html.escape(text[:EXAMPLE_CHARACTERS]) + (" ..." if len(text) > EXAMPLE_CHARACTERS else "")
    return f"<small>{outcome}{value}: {html.escape(document_id)}</small><pre>{excerpt}</pre>"
