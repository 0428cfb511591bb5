"""What would be read from files or folders: source, kind and format of each, found by reading the first rows.

Each file is read as every kind of record that its source offers; the kind that keeps most rows is proposed. If no kind
recognizes the columns, the column with the longest texts is proposed as the text of documents, with a warning.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tasks import catalog
from tasks.documents import Document
from tasks.errors import BadInput
from tasks.ingestion import text_layout
from tasks.ingestion.file_report import NUM_EXAMPLES, describe
from tasks.ingestion.files import containers, file_types
from tasks.ingestion.files.decompression import read_chunks
from tasks.ingestion.labels import LabeledRow
from tasks.ingestion.opening import COMPRESSED, InputFile, find_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.kept_shares import list_counts, share_text
from tasks.tables import Quarantined

SOURCES = "tasks.ingestion.sources"
FILE_SOURCES = ("jsonl", "parquet", "csv", "markdown", "html", "warc", "text")
KINDS = ("preferences", "conversations", "documents")  # in this order where two of them keep as many rows
NUM_ROWS = 200  # of each file
MAX_FILES = 20  # of each format that are read; the others are taken to be like them
MAX_ARCHIVE_MEMBERS = 1000
FEW_KEPT, MIN_TEXT_CHARACTERS, MIN_LENGTH_RATIO = 0.5, 20, 3
_OTHER_RECORDS = re.compile(r"`records: ([^`]+)`")


@dataclass
class Reading:
    """What the first rows of one file give when they are read in one way."""

    settings: dict[str, Any]  # the params of the source that differ from their defaults
    num_rows: int = 0
    num_kept: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    unused_columns: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)  # messages about quarantined rows

    @property
    def share(self) -> float:
        """The share of the rows that is kept."""
        return self.num_kept / self.num_rows if self.num_rows else 0.0


@dataclass
class Proposal:
    """Files that are read in the same way, as one source of params.yaml."""

    name: str
    source: str
    settings: dict[str, Any]
    paths: list[str]
    num_files: int
    reading: Reading
    warnings: list[str]

    def body(self) -> dict[str, Any]:
        """Return the proposal as a JSON object."""
        reading = self.reading
        return {
            "name": self.name,
            "source": self.source,
            "kind": self.settings.get("kind", "documents"),
            "paths": self.paths,
            "files": self.num_files,
            "rows_tried": reading.num_rows,
            "rows_kept": reading.num_kept,
            "formats": dict(reading.formats.most_common()),
            "reasons": dict(reading.reasons.most_common()),
            "unused_columns": sorted(reading.unused_columns),
            "changes": dict(reading.changes.most_common()),
            "examples": reading.examples[:NUM_EXAMPLES],
            "warnings": self.warnings,
        }

    def entry(self) -> dict[str, Any]:
        """Return the entry of params.yaml."""
        return {"source": self.source, **self.settings, "paths": self.paths}


@dataclass
class Preview:
    """The proposals, the files that cannot be read with the reasons, and the paragraph of params.yaml."""

    proposals: list[Proposal]
    not_read: dict[str, str]

    @property
    def paragraph(self) -> str:
        """The text to paste into params.yaml; empty if nothing can be read."""
        entries = {proposal.name: proposal.entry() for proposal in self.proposals if proposal.reading.num_kept}
        if not entries:
            return ""
        return yaml.safe_dump({"ingestion": {"sources": entries}}, allow_unicode=True, sort_keys=False, width=120)

    def body(self) -> dict[str, Any]:
        """Return the preview as a JSON object."""
        sources = [proposal.body() for proposal in self.proposals]
        return {"sources": sources, "not_read": self.not_read, "params": self.paragraph}


def preview(paths: Sequence[str]) -> Preview:
    """Read the first rows of the files at `paths`. Raises BadInput if a path does not exist."""
    proposals: list[Proposal] = []
    not_read: dict[str, str] = {}
    for path in paths:
        for source, files in _files_by_source(path, not_read).items():
            proposals += _propose(path, source, files)
    _make_names_unique(proposals)
    return Preview(proposals, not_read)


def _make_names_unique(proposals: Sequence[Proposal]) -> None:
    """Append the source, and then a number, to names that several proposals have."""
    shared = {name for name, n in Counter(proposal.name for proposal in proposals).items() if n > 1}
    names: Counter[str] = Counter()
    for proposal in proposals:
        if proposal.name in shared:
            proposal.name += f"_{proposal.source}"
        names[proposal.name] += 1
        if names[proposal.name] > 1:
            proposal.name += f"_{names[proposal.name]}"


def _files_by_source(path: str, not_read: dict[str, str]) -> dict[str, list[str]]:
    """Return source -> its files at a path; add the files that no source reads to `not_read`."""
    files: dict[str, list[str]] = {}
    for file in find_files((path,), ("",)):
        if file.error:
            not_read[file.name] = file.error
            continue
        sources = _archive_sources(file) if containers.is_archive(file.name) else {_source_of(file)}
        if sources == {"text"} and _is_label_table(file):
            sources = {"csv"}
        if "" in sources:
            is_archive = containers.is_archive(file.name)
            reason = "No member of the archive ends as a file that is read." if is_archive else _identify(file)
            not_read[file.name] = reason or "This is no format that a source reads."
        for source in sorted(sources - {""}):
            files.setdefault(source, []).append(_path(file))
    return files


def _is_label_table(file: InputFile) -> bool:
    return text_layout.is_label_table(text_layout.first_lines(_path(file), max_lines=NUM_ROWS))


def _path(file: InputFile) -> str:
    """Return the path by which a file can be opened: its name, unless this is not valid Unicode."""
    return file.name if "://" in file.name or Path(file.name).exists() else file.key


def _source_of(file: InputFile) -> str:
    """Return the source that reads a file by the ending of its name, or by its beginning; "" if none does."""
    if source := _source_of_name(file.name):
        return source
    start = _start(file)
    if not start or _identify(file):
        return ""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] in (b"{", b"["):
        return "jsonl"
    if text[:15].lower().startswith((b"<!doctype html", b"<html")):
        return "html"
    return "warc" if text.startswith(b"WARC/") else "text"


def _source_of_name(name: str) -> str:
    name = name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    for source in FILE_SOURCES:
        module: Any = catalog.find(SOURCES, source)
        if name.endswith((*module.SUFFIXES, *getattr(module, "DOCUMENT_SUFFIXES", ()))):
            return source
    return ""


def _archive_sources(file: InputFile) -> set[str]:
    """Return the sources that read the members of an archive."""
    sources: set[str] = set()
    for number, member in enumerate(containers.read_members(file.name, file.open, 500.0)):
        if not isinstance(member, Quarantined):
            sources.add(_source_of_name(member[0]))
        if number >= MAX_ARCHIVE_MEMBERS:
            break
    return sources - {""} or {""}


def _start(file: InputFile) -> bytes:
    """Return the first decompressed bytes of a file."""
    with file.open() as opened:
        chunk = next(read_chunks(opened, file.name, 500.0, is_archive=True), b"")
    return chunk[:4096] if isinstance(chunk, bytes) else b""


def _identify(file: InputFile) -> str:
    with file.open() as opened:
        return file_types.identify(opened.read(file_types.START_BYTES), file.name)


def _propose(path: str, source: str, names: Sequence[str]) -> list[Proposal]:
    """Return one proposal for each way in which files of a source at `path` are to be read."""
    readings = {name: _best_reading(source, name) for name in names[:MAX_FILES]}
    ways: dict[str, list[str]] = {}
    for name, reading in readings.items():  # a file of which nothing is kept would spoil the paragraph of the others
        ways.setdefault(f"{reading.settings} {bool(reading.num_kept)}", []).append(name)
    proposals = []
    for files in ways.values():
        settings = readings[files[0]].settings
        total = _sum(settings, [readings[name] for name in files])
        # The whole path is named where all of its files are read in one way, so that files added later are read too.
        is_whole = len(ways) == 1 and _are_all(path, source, names)
        paths = [path] if is_whole else files
        num_files = len(names) if is_whole else len(files)
        warnings = _warnings(source, total, num_files if is_whole else len(files), len(files))
        if not is_whole and len(names) > MAX_FILES:
            warnings.append(f"Only {MAX_FILES} of {len(names)} files were tried, and they differ; name the others.")
        stem = path if is_whole and Path(path).is_dir() else files[0]
        proposals.append(Proposal(_entry_name(stem), source, settings, paths, num_files, total, warnings))
    return proposals


def _are_all(path: str, source: str, names: Sequence[str]) -> bool:
    """Return whether these are the files that the source reads at a path; archives may have other members, too."""
    if not Path(path).is_dir():
        return True
    module: Any = catalog.find(SOURCES, source)
    suffixes = (*module.SUFFIXES, *getattr(module, "DOCUMENT_SUFFIXES", ()))
    found = {_path(file) for file in find_files((path,), (*suffixes, "")) if _source_of_name(file.name) == source}
    return found == {name for name in names if not containers.is_archive(name)}


def _best_reading(source: str, name: str) -> Reading:
    """Return the way of reading a file that keeps most rows."""
    module: Any = catalog.find(SOURCES, source)
    if "kind" not in module.Params.model_fields:
        return _read(source, name, {})
    readings = [_read(source, name, {"kind": kind}) for kind in KINDS]
    if source == "text" and Path(name).suffix:  # text has no columns: other kinds only if most lines have separators
        readings = [reading for reading in readings if reading.share > FEW_KEPT] or readings[-1:]
    best = max(readings, key=lambda reading: reading.share)
    # Preferences and conversations are recognized by their columns only, so that they take precedence.
    best = next(reading for reading in readings if reading.share >= FEW_KEPT * best.share)
    if best.share < FEW_KEPT:
        inner = [
            match for reading in readings for detail in reading.details for match in _OTHER_RECORDS.findall(detail)
        ]
        if inner:
            nested = [_read(source, name, {"kind": kind, "records": inner[0]}) for kind in KINDS]
            best = max([best, *nested], key=lambda reading: reading.share)
    if source == "csv" and not best.num_kept:
        best = max([best, *_read_without_header(name)], key=lambda reading: reading.share)
    if best.share < FEW_KEPT and (column := _longest_column(source, name, best)):
        settings = {"kind": "documents", "fields": {"text": column}}
        best = max([best, _read(source, name, settings)], key=lambda reading: reading.share)
    if best.settings.get("kind") == "documents":
        best.settings = {key: value for key, value in best.settings.items() if key != "kind"}
    if (
        source == "text"
        and not best.settings
        and (per := text_layout.choose_per(text_layout.first_lines(name))) != "file"
    ):
        best = _read(source, name, {"per": per})
    return best


def _read_without_header(name: str) -> Iterator[Reading]:
    """Yield the reading of a table as documents if its first line is no header."""
    module: Any = catalog.find(SOURCES, "csv")
    lines = text_layout.first_lines(name, ("",), NUM_ROWS)
    for delimiter in module.DELIMITERS:
        if names := text_layout.name_columns(text_layout.split_rows(lines, delimiter)):
            yield _read("csv", name, {"column_names": names, "delimiter": delimiter})


def _read(source: str, name: str, settings: dict[str, Any]) -> Reading:
    """Read the first NUM_ROWS rows of a file."""
    module: Any = catalog.find(SOURCES, source)
    reading, counts = Reading(dict(settings)), ReadCounts()
    for record in _first(module.read(module.Params(paths=name, **settings), counts), NUM_ROWS):
        if isinstance(record, Quarantined):
            reading.num_rows += record.num_records
            reading.reasons[record.reason] += record.num_records
            reading.details += [record.detail] if len(reading.details) < NUM_EXAMPLES else []
            continue
        reading.num_rows += len(record.rows)
        reading.num_kept += len(record.rows)
        reading.changes.update(record.changes)
        if isinstance(record, LabeledRow):
            reading.formats["answer and label (KTO)"] += 1
        elif record.rows:
            reading.formats[record.format] += 1
        if len(reading.examples) < NUM_EXAMPLES and not isinstance(record, LabeledRow):
            reading.examples.append(describe(record))
    for (_, column), n in counts.unused_columns().items():
        reading.unused_columns[column] += n
    return reading


def _first(records: Iterator[Any], max_rows: int) -> Iterator[Any]:
    num_rows = 0
    for record in records:
        yield record
        num_rows += record.num_records if isinstance(record, Quarantined) else len(record.rows)
        if num_rows >= max_rows:
            return


def _longest_column(source: str, name: str, reading: Reading) -> str:
    """Return the column whose values are by far the longest texts, "" if there is none."""
    module: Any = catalog.find(SOURCES, source)
    names = sorted({*reading.unused_columns, *_named_columns(reading.details)})
    lengths: dict[str, float] = {}
    for column in names[:50]:
        try:
            params = module.Params(paths=name, fields={"text": column})
        except ValidationError:
            continue
        texts = [r.text for r in _first(module.read(params), NUM_ROWS // 4) if isinstance(r, Document)]
        lengths[column] = sum(map(text_layout.width, texts)) / max(1, len(texts))
    by_length = sorted(lengths, key=lambda column: -lengths[column])
    if not by_length or lengths[by_length[0]] < MIN_TEXT_CHARACTERS:
        return ""
    # Several columns of long texts are the parts of a record whose format is unknown.
    is_alone = len(by_length) == 1 or lengths[by_length[0]] >= MIN_LENGTH_RATIO * lengths[by_length[1]]
    return by_length[0] if is_alone else ""


def _named_columns(details: Sequence[str]) -> Iterator[str]:
    """Yield the columns that messages about missing fields name: `... available: a, b.`"""
    for detail in details:
        for match in re.findall(r"(?:available|columns are): ([^.;]+)", detail):
            yield from (name.strip() for name in match.split(","))


def _sum(settings: dict[str, Any], readings: Sequence[Reading]) -> Reading:
    total = Reading(settings)
    for reading in readings:
        total.num_rows += reading.num_rows
        total.num_kept += reading.num_kept
        total.formats += reading.formats
        total.reasons += reading.reasons
        total.unused_columns += reading.unused_columns
        total.changes += reading.changes
        total.examples += reading.examples
        total.details += reading.details
    return total


def _warnings(source: str, reading: Reading, num_files: int, num_tried: int) -> list[str]:
    warnings = []
    if reading.num_kept < reading.num_rows:
        num_bad = reading.num_rows - reading.num_kept
        warnings.append(
            f"{num_bad} of the first {reading.num_rows} rows ({share_text(num_bad, reading.num_rows)}) cannot be used: "
            f"{list_counts(reading.reasons)}. The first: {reading.details[0] if reading.details else ''}"
        )
    if column := reading.settings.get("fields", {}).get("text"):
        warnings.append(f"No usual column was recognized; the column {column!r} has the longest texts. Check it.")
    if (columns := reading.settings.get("column_names")) and "fields" not in reading.settings:
        warnings.append(f"The first line is no header; the columns are named {', '.join(columns)}. Check the names.")
    if per := reading.settings.get("per"):
        warnings.append(f"The file is long, so that each {per} is one document (`per: {per}`). Check the examples.")
    if num_tried < num_files:
        warnings.append(f"{num_tried} of {num_files} files were tried.")
    return warnings


def _entry_name(path: str) -> str:
    """Return a name for the source made from the name of a file or folder."""
    stem = Path(path).name.split(".")[0]
    name = re.sub(r"[^0-9a-z_]+", "_", stem.lower()).strip("_")
    if not name or name in catalog.names(SOURCES):
        name = f"{name or 'data'}_files"
    return name if name[0].isalpha() else f"data_{name}"


def require_any(result: Preview, paths: Sequence[str]) -> None:
    """Raise BadInput if no file can be read."""
    if not result.paragraph:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(result.not_read.items())[:3])
        details = [detail for proposal in result.proposals for detail in proposal.reading.details]
        reason = reasons or (details[0] if details else "There is no row in them.")
        raise BadInput(f"Nothing can be read from {', '.join(paths)}. {reason}")
