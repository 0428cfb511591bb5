"""The report of ingestion: what became of the rows of every source and file, with examples."""

import html
from collections import Counter
from pathlib import Path
from typing import Any

from tasks import kept_shares
from tasks.files import write_json
from tasks.ingestion.file_report import FileReport, file_name
from tasks.ingestion.opening import COMPRESSED
from tasks.ingestion.record_writer import RECORD_KINDS, RecordWriter
from tasks.kept_shares import KeptShareParams, list_counts
from tasks.pages import document, table
from tasks.reports import Report

MAX_LISTED_FILES = 1000  # in the report; those that lost most rows come first, then those with most rows


def make_report(writer: RecordWriter, params: KeptShareParams) -> Report:
    """Return the report: read = kept + quarantined + skipped, in rows, of each source and of each file."""
    files = writer.files.all()
    names = dict.fromkeys(report.source for report in files)
    rows = [_source_row(source, writer) for source in names]
    columns = ("read", "kept", "quarantined", "skipped", *RECORD_KINDS)
    body = Report("ingestion", counts={column: sum(row[column] for row in rows) for column in columns})
    body.tables["sources"] = rows
    body.tables["files"] = [_file_row(report) for report in _listed(files)]
    body.tables["splits"] = [
        {"source": source, "kind": kind, "split": split, "records": n}
        for (source, kind, split), n in sorted(writer.num_by_split.items())
    ]
    body.tables["quarantine"] = [
        {"source": source, "reason": reason, "records": n}
        for (source, reason), n in sorted(writer.num_by_reason.items())
    ]
    body.tables["changes"] = [
        {"source": source, "change": words, "times": n} for (source, words), n in sorted(writer.num_by_change.items())
    ]
    not_read = writer.files.not_read()
    body.counts["files_not_read"] = len(not_read)
    body.tables["files_not_read"] = [{"file": name, "ending": _ending(name)} for name in not_read[:MAX_LISTED_FILES]]
    body.warnings = warnings(writer, params)
    body.tables |= writer.files.tables
    body.notes = [*_notes(not_read), *writer.files.notes]
    body.summary = _summary(body.counts, writer, len(names))
    body.highlights = columns
    return body


def warnings(writer: RecordWriter, params: KeptShareParams) -> list[str]:
    """Return a warning for each source and file that loses too many rows, and for columns that no source uses."""
    by_source: dict[str, list[FileReport]] = {}
    for report in writer.files.all():
        by_source.setdefault(report.source, []).append(report)
    sources = {
        source: (
            sum(report.num_kept for report in reports),
            sum(report.num_kept + report.num_quarantined for report in reports),
            kept_shares.total(report.reasons for report in reports),
        )
        for source, reports in by_source.items()
    }
    files = {
        file_name(report.file): (report.num_kept, report.num_kept + report.num_quarantined, report.reasons)
        for reports in by_source.values()
        for report in reports
        if len(reports) > 1
    }
    notes = kept_shares.warn_of_low_shares("source", sources, params, "rows")
    file_notes = kept_shares.warn_of_low_shares("file", files, params, "rows")
    return [*notes, *kept_shares.shorten(file_notes, "data/reports/ingestion/files.csv")]


def _notes(not_read: list[str]) -> list[str]:
    """Return a note about files in the folders of the sources that no source reads."""
    if not not_read:
        return []
    number = "1 file" if len(not_read) == 1 else f"{len(not_read):,} files"
    endings = list_counts(Counter(map(_ending, not_read)))
    return [
        f"{number} in the folders of the sources cannot be read by any of them, judged by the endings ({endings}); the "
        f"first is {not_read[0]}. `python -m flows.preview` says how to read a file; the others are listed in "
        "data/reports/ingestion/files_not_read.csv."
    ]


def _ending(name: str) -> str:
    """Return .xlsx for a/b.c.xlsx, .xml.gz for b.xml.gz, and "none" for a name without an ending."""
    endings = Path(name.lower()).suffixes
    return "".join(endings[-2:] if name.lower().endswith(COMPRESSED) else endings[-1:]) or "none"


def write_files(writer: RecordWriter, body: Report, folder: Path) -> None:
    """Write files.json and ingestion.html: each file with its format, its rows, the reasons and examples."""
    listed = _listed(writer.files.all())
    write_json(folder / "files.json", [report.body() for report in listed])
    parts = [f'<p class="note">{html.escape(note)}</p>' for note in [*body.warnings, *body.notes]]
    parts += ["<h2>Sources</h2>", table(body.tables["sources"]), "<h2>What was changed</h2>"]
    parts += [table(body.tables["changes"]), *map(_file_section, listed)]
    if (num_others := len(writer.files.all()) - len(listed)) > 0:
        parts.append(f"<p>{num_others} more files are not listed; they lost the fewest rows.</p>")
    (folder / "ingestion.html").write_text(document("Ingestion", "\n".join(parts), body.summary), encoding="utf-8")


def _summary(counts: dict[str, int], writer: RecordWriter, num_sources: int) -> str:
    records = ", ".join(f"{counts[kind]:,} {kind}" for kind in RECORD_KINDS if counts[kind])
    text = (
        f"ingestion kept {counts['kept']:,} of {counts['read']:,} rows "
        f"({kept_shares.share_text(counts['kept'], counts['read'])}) of {num_sources} sources "
        f"as {records or 'no record'}"
    )
    reasons: Counter[str] = Counter()
    for (_, reason), n in writer.num_by_reason.items():
        reasons[reason] += n
    if reasons:
        text += f"; quarantined {counts['quarantined']:,}: {list_counts(reasons)}"
    skipped = kept_shares.total(report.skipped for report in writer.files.all())
    if skipped:
        text += f"; skipped {counts['skipped']:,}: {list_counts(skipped)}"
    if unused := kept_shares.total(report.unused_columns for report in writer.files.all()):
        text += f"; columns not used: {list_counts(unused)}"
    return f"{text}; see data/reports/ingestion/ingestion.html"


def _source_row(source: str, writer: RecordWriter) -> dict[str, Any]:
    reports = writer.files.of_source(source)
    counts = {
        "read": sum(report.num_read for report in reports),
        "kept": sum(report.num_kept for report in reports),
        "quarantined": sum(report.num_quarantined for report in reports),
        "skipped": sum(report.skipped.total() for report in reports),
    }
    return {"source": source, **counts, **{kind: writer.num_records[source, kind] for kind in RECORD_KINDS}}


def _listed(files: list[FileReport]) -> list[FileReport]:
    """Return the files that the report lists, by source and name."""
    ordered = sorted(files, key=lambda report: (-report.num_quarantined, -report.num_read, report.source, report.file))
    return sorted(ordered[:MAX_LISTED_FILES], key=lambda report: (report.source, report.file))


def _file_row(report: FileReport) -> dict[str, Any]:
    return {
        "source": report.source,
        "file": file_name(report.file),
        "format": list_counts(report.formats) if len(report.formats) > 1 else "".join(report.formats),
        "read": report.num_read,
        "kept": report.num_kept,
        "quarantined": report.num_quarantined,
        "skipped": report.skipped.total(),
        "reasons": list_counts(report.reasons, 10),
        "unused_columns": ", ".join(sorted(report.unused_columns)),
    }


def _file_section(report: FileReport) -> str:
    row = {key: value for key, value in _file_row(report).items() if key not in ("source", "file")}
    parts = [f"<h2>{html.escape(report.source)}: {html.escape(file_name(report.file))}</h2>", table([row])]
    if report.changes:
        parts.append(f"<p>Changed: {html.escape(list_counts(report.changes, 10))}</p>")
    parts += [f"<small>kept</small><pre>{html.escape(text)}</pre>" for text in report.examples]
    parts += [f"<small>quarantined</small><pre>{html.escape(text)}</pre>" for text in report.quarantined_examples]
    return "\n".join(parts)
