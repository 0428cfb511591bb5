"""The list of records that were removed on request, which ingestion applies to every source.

It contains ids and hashes of texts, never a text. The hash is that of the normalized text, so that a later delivery
does not bring a record back under another id, with other spaces, widths or cases.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks import tables
from tasks.errors import BadInput
from tasks.files import MANIFEST, read_json, write_json

FILE = Path("raw/.removals.json")  # below data; data/raw is a dependency of ingestion, and sources skip hidden files
FOLDERS = {
    "document": Path("documents"),
    "conversation": Path("conversations/raw"),
    "preference": Path("preferences/raw"),
}
REASON = "removed"  # of the quarantined rows
DETAIL = "The record was removed on request (python -m flows.removal)."


@dataclass(frozen=True, slots=True)
class Match:
    """A record in the tables of ingestion that a request concerns. `text` is its beginning or the matching part."""

    kind: str
    id: str
    source: str
    split: str
    text_hash: str
    text: str


@dataclass
class Removals:
    """Ids, and hashes of normalized texts, of removed records."""

    ids: set[str] = field(default_factory=set)
    text_hashes: set[str] = field(default_factory=set)

    def contains(self, row: Mapping[str, Any]) -> bool:
        """Whether the row of a document, conversation or preference was removed, by its id or by its text."""
        if not self.ids and not self.text_hashes:
            return False
        return row["id"] in self.ids or hash_of(text_of(row)) in self.text_hashes


def read(data: Path) -> Removals:
    """Return the list below `data`; an empty one if there is none. Raises BadInput if the file is damaged."""
    path = data / FILE
    if not path.is_file():
        return Removals()
    try:
        body = read_json(path)
        return Removals(set(map(str, body["ids"])), set(map(str, body["text_hashes"])))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is not a list of removals ({error!r}): expected a JSON object with the lists `ids` and "
            "`text_hashes`. Restore the file from git; without it, removed records would come back."
        ) from None


def add(data: Path, matches: list[Match], with_ids: bool) -> int:
    """Add records to the list; with_ids: also by their ids. Return how many texts and ids are new."""
    removals = read(data)
    size = len(removals.ids) + len(removals.text_hashes)
    removals.text_hashes |= {match.text_hash for match in matches}
    if with_ids:
        removals.ids |= {match.id for match in matches}
    (data / FILE).parent.mkdir(parents=True, exist_ok=True)
    body = {"ids": sorted(removals.ids), "text_hashes": sorted(removals.text_hashes)}
    write_json(data / FILE, body)
    return len(removals.ids) + len(removals.text_hashes) - size


def find(data: Path, record_id: str | None = None, matching: str | None = None) -> Iterator[Match]:
    """Yield the ingested records with this id, or whose text contains `matching` after normalization."""
    needle = normalize(matching or "")
    if record_id is None and not needle:
        raise BadInput("The text to remove is empty. State an id, or --matching with a text of at least one character.")
    for kind, folder in FOLDERS.items():
        if not (data / folder / MANIFEST).is_file():
            continue
        for table in tables.batches(data / folder):
            for row in _rows(table, record_id):
                text = text_of(row)
                normalized = normalize(text)
                if record_id is not None or needle in normalized:
                    start = max(0, normalized.find(needle) - 30) if record_id is None else 0
                    excerpt = normalized[start : start + 120]
                    yield Match(kind, row["id"], row["source"], row["split"], hash_of(text), excerpt)


def text_of(row: Mapping[str, Any]) -> str:
    """Return the text of a row of any of the three tables: its content, without roles."""
    if "text" in row:
        return str(row["text"])
    messages = row["messages"] if "messages" in row else row["prompt"]
    parts = [message["content"] or "" for message in messages or ()]
    return "\n".join([*parts, *(row.get(name) or "" for name in ("chosen", "rejected"))]).strip()


def normalize(text: str) -> str:
    """Return `text` without differences of width, case and spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def hash_of(text: str) -> str:
    """Return the hash by which a text is listed."""
    return hashlib.sha256(normalize(text).encode("utf-8", "surrogatepass")).hexdigest()


def _rows(table: pa.Table, record_id: str | None) -> list[dict[str, Any]]:
    if record_id is not None:
        table = table.filter(pc.equal(table["id"], record_id))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
