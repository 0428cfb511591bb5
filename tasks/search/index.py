"""An index of the texts behind a model: every n-gram of three characters of the kept and the dropped records.

SQLite's full-text index with the trigram tokenizer finds any substring of at least three characters, in Chinese as
well as in English. The index stores no texts (a contentless table, https://sqlite.org/fts5.html#contentless_tables):
those of the hits are read from the shards.
"""

import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks import tables
from tasks.errors import BadInput
from tasks.files import MANIFEST

FOLDERS = {  # below data -> what its records are
    "curated": "document",
    "dropped": "document",
    "conversations/curated": "conversation",
    "conversations/dropped": "conversation",
    "preferences/curated": "preference",
    "preferences/dropped": "preference",
}
NUM_CHARACTERS = 12  # of a passage that is looked up; passages overlap by half
MIN_CHARACTERS = 3  # of a query: the size of the n-grams
MAX_PASSAGES = 200  # of one query
MAX_CANDIDATES = 1_000  # records with a passage, of which the best are shown


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that shares passages with the query. `reason`: why it was dropped; empty if it was kept.

    share: the share of the passages of the query that the record contains, from 0 to 1.
    """

    share: float
    kind: str
    id: str
    source: str
    split: str
    reason: str
    text: str


def digest(data: Path) -> str:
    """Return a hash of the manifests of all indexed tables: the version of the data."""
    manifests = [(data / folder / MANIFEST) for folder in FOLDERS]
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in manifests if p.is_file())).hexdigest()[:16]


def build(data: Path, folder: Path) -> Path:
    """Return the index of the present data in `folder`; build it if there is none yet. Raises BadInput."""
    path = folder / f"{digest(data)}.db"
    if path.is_file():
        return path
    if not any((data / name / MANIFEST).is_file() for name in FOLDERS):
        raise BadInput(f"{data} contains no curated data. Run `python -m flows.pipeline --to curation` first.")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"new-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(temporary)) as database, database:
        database.execute("pragma journal_mode = off")
        database.execute("create virtual table texts using fts5(text, content='', tokenize='trigram')")
        database.execute("create table records (folder text, shard text, row integer)")  # rowid as in `texts`
        for number, (name, shard, row, text) in enumerate(_texts(data), 1):
            database.execute("insert into texts (rowid, text) values (?, ?)", (number, text))
            database.execute("insert into records values (?, ?, ?)", (name, shard, row))
    for old in folder.glob("*.db"):
        old.unlink()  # of earlier versions of the data
    temporary.replace(path)
    return path


def search(data: Path, index: Path, query: str, num_hits: int) -> list[Hit]:
    """Return the records that share most passages with `query`, best first. Raises BadInput for a short query."""
    passages = passages_of(query)
    counts: Counter[int] = Counter()
    with closing(sqlite3.connect(index)) as database:
        for passage in passages:
            quoted = '"' + passage.replace('"', '""') + '"'
            rows = database.execute("select rowid from texts where texts match ? limit ?", (quoted, MAX_CANDIDATES))
            counts.update(number for (number,) in rows)
        best = sorted(counts, key=lambda number: (-counts[number], number))[:num_hits]
        places = {n: database.execute("select * from records where rowid = ?", (n,)).fetchone() for n in best}
    return [_hit(data, places[number], counts[number] / len(passages), passages) for number in best]


def passages_of(query: str) -> list[str]:
    """Return overlapping parts of a query; the whole query if it is short. Raises BadInput if it is too short."""
    text = " ".join(query.split())
    if len(text) < MIN_CHARACTERS:
        raise BadInput(f"The text {query!r} is too short to search for: expected at least {MIN_CHARACTERS} characters.")
    starts = range(0, max(1, len(text) - NUM_CHARACTERS // 2), NUM_CHARACTERS // 2)
    passages = [text[start : start + NUM_CHARACTERS] for start in starts]
    return list(dict.fromkeys(part for part in passages if len(part) >= MIN_CHARACTERS))[:MAX_PASSAGES]


def _texts(data: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield folder, shard, row and text of every record. Spaces are single, as in the passages of a query."""
    for name in FOLDERS:
        if (data / name / MANIFEST).is_file():
            for shard, table in zip(tables.manifest(data / name)["shards"], tables.shards(data / name), strict=True):
                row = 0
                for batch in table.to_batches(1_000):
                    for record in batch.to_pylist():
                        yield name, shard["name"], row, " ".join(_text(record).split())
                        row += 1


def _text(record: dict[str, Any]) -> str:
    if "text" in record:
        return str(record["text"])
    messages = record["messages"] if "messages" in record else record["prompt"]
    parts = [message["content"] or "" for message in messages or ()]
    return "\n".join([*parts, *(record.get(name) or "" for name in ("chosen", "rejected"))])


def _hit(data: Path, place: tuple[str, str, int], share: float, passages: list[str]) -> Hit:
    folder, shard, row = place
    record = pq.read_table(data / folder / shard).slice(row, 1).to_pylist()[0]
    text = " ".join(_text(record).split())
    start = min((at for part in passages if (at := text.casefold().find(part.casefold())) >= 0), default=0)
    reason = str(record.get("reason") or "") if folder.endswith("dropped") else ""
    of = record.get("duplicate_of")
    return Hit(
        share, FOLDERS[folder], record["id"], record["source"], record["split"],
        f"{reason} of {of}" if reason and of else reason, text[max(0, start - 40) : start + 160],
    )  # fmt: skip


def describe(hits: list[Hit]) -> str:
    """Return hits as lines for people."""
    lines = []
    for hit in hits:
        state = f"dropped: {hit.reason}" if hit.reason else f"kept, {hit.split}"
        lines += [
            f"{hit.share:4.0%}  {hit.kind}  {hit.id}  ({state})",
            f"      {json.dumps(hit.text, ensure_ascii=False)}",
        ]
    return "\n".join(lines)
