"""One file of bad input, and the outcome of reading it."""

from pathlib import Path
from typing import Any

from tasks.documents import Document
from tasks.ingestion.records import Record
from tasks.tables import Quarantined

Outcome = tuple[list[str], list[str]]


def outcome(records: list[Record]) -> Outcome:
    """Return the texts that were kept and the reasons for quarantine, each in order."""
    kept = [r.text for r in records if isinstance(r, Document)]
    reasons = [r.reason for r in records if isinstance(r, Quarantined)]
    assert len(kept) + len(reasons) == len(records)
    return kept, reasons


def read(source: Any, path: Path, content: bytes, **params: Any) -> Outcome:
    """Read a file with this content by `source`."""
    path.write_bytes(content)
    return outcome(list(source.read(source.Params(paths=str(path), **params))))
