"""Tables as folders of Parquet shards. The manifest is written last: a folder that has one is complete.

Used for documents, conversations, preferences, signals, and dropped and quarantined records. The same rows produce the
same bytes on every machine that has the pinned version of pyarrow.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.errors import BadInput
from tasks.files import MANIFEST, read_json, rerun_advice, sha256, verify, version_problem, with_version, write_json

CONTENT_COLUMNS = ("text", "messages", "prompt", "chosen", "rejected")  # the columns that a model is trained on

GROUP_BYTES = 4 << 20  # size of a row group before compression: what a writer holds in memory

QUARANTINE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("line", pa.int64()),  # from 1; null if the file has no lines
        pa.field("offset", pa.int64()),  # in bytes of the decompressed file
        pa.field("field", pa.string()),
        pa.field("reason", pa.string(), nullable=False),  # a fixed identifier, such as "invalid_utf8"
        pa.field("detail", pa.string(), nullable=False),  # one sentence for the user
    ]
)


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that cannot be read: its location and the reason, but never its content.

    `num_records` is greater than 1 where records are lost together, such as the rest of a damaged row group.
    """

    file: str
    reason: str
    detail: str
    line: int | None = None
    offset: int | None = None
    field: str | None = None
    num_records: int = 1

    def row(self, source: str) -> dict[str, Any]:
        """Return this record as a row of QUARANTINE."""
        location = {"file": self.file, "line": self.line, "offset": self.offset, "field": self.field}
        return {"source": source, **location, "reason": self.reason, "detail": self.detail}


class Writer:
    """Writes rows or Arrow tables into `folder` as shards of about `shard_bytes` (size in memory, before compression).

    Use as a context manager; the manifest is written only if the block ends without an exception. Rows of about
    `group_bytes` (the default is GROUP_BYTES) are held in memory.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        shard_bytes: int = 256 << 20,
        batch_rows: int = 4096,
        compression_level: int = 3,
        group_bytes: int | None = None,
    ) -> None:
        self._group_bytes = group_bytes or GROUP_BYTES
        self.folder, self.schema, self._level = Path(folder), schema, compression_level
        self._shard_bytes, self._batch_rows = shard_bytes, batch_rows
        self._rows: list[dict[str, Any]] = []
        self._tables: list[pa.Table] = []
        self._pending_bytes = self._written_bytes = self._shard_rows = 0
        self._file: pq.ParquetWriter | None = None
        self._shards: list[dict[str, Any]] = []
        self.num_rows = 0

    def __enter__(self) -> "Writer":
        self.folder.mkdir(parents=True, exist_ok=True)
        for old_file in (self.folder / MANIFEST, *self.folder.glob("*.parquet")):
            old_file.unlink(missing_ok=True)  # the manifest first: the folder is now incomplete
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._close()
        else:
            self._gather_rows()
            self._write_shard()
            body = {"rows": self.num_rows, "columns": self.schema.names, "shards": self._shards}
            write_json(self.folder / MANIFEST, with_version("table", body))

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one row: column name -> value."""
        self._rows.append(row)
        if len(self._rows) >= self._batch_rows:
            self._gather_rows()

    def add_table(self, table: pa.Table) -> None:
        """Append a table. Its columns may have any order and are cast to the schema."""
        self._gather_rows()
        self._append(table.select(self.schema.names).cast(self.schema))

    def _gather_rows(self) -> None:
        if self._rows:
            self._append(pa.Table.from_pylist(self._rows, schema=self.schema))
            self._rows = []

    def _append(self, table: pa.Table) -> None:
        self._tables.append(table)
        self._pending_bytes += table.nbytes
        self.num_rows += table.num_rows
        if self._written_bytes + self._pending_bytes >= self._shard_bytes:
            self._write_shard()
        elif self._pending_bytes >= self._group_bytes:
            self._write_group()

    def _write_group(self) -> None:
        """Write the pending tables as one row group of the open shard."""
        table = pa.concat_tables(self._tables) if self._tables else self.schema.empty_table()
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, self.schema, compression="zstd", compression_level=self._level)
            self._shard_rows = 0
        self._file.write_table(table, row_group_size=max(1, table.num_rows))
        self._shard_rows += table.num_rows
        self._written_bytes += self._pending_bytes
        self._tables, self._pending_bytes = [], 0

    def _write_shard(self) -> None:
        if self._tables or (self._file is None and not self._shards):
            self._write_group()  # an empty table gets one empty shard, so that its schema can be read
        if self._file is not None:
            self._close()
            self._shards.append({"name": self._path.name, "rows": self._shard_rows, "sha256": sha256(self._path)})
        self._written_bytes = 0

    @property
    def _path(self) -> Path:
        return self.folder / f"{len(self._shards):05d}.parquet"

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def write(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table], compression_level: int = 3) -> int:
    """Write `tables` into `folder`. Returns the number of rows."""
    with Writer(folder, schema, compression_level=compression_level) as writer:
        for table in tables:
            writer.add_table(table)
    return writer.num_rows


def manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a complete folder: rows, columns, shards with sha256.

    Raises BadInput if it is missing, or if it has a schema version that cannot be read.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise BadInput(f"{folder} is not a complete table: {MANIFEST} is missing. Run the stage that writes it again.")
    body = dict(read_json(path))
    if problem := version_problem("table", body, path):
        raise BadInput(f"{problem} {rerun_advice(path)}")
    return body


def read(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Return all rows of `folder`, in memory."""
    return pa.concat_tables(shards(folder, columns))


def shards(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield each shard of `folder` as a table. Raises BadInput if a shard is missing or damaged."""
    for shard in manifest(folder)["shards"]:
        path = Path(folder) / shard["name"]
        with _readable(path):
            verify(path, shard.get("sha256"))
            table = pq.read_table(path, columns=list(columns) if columns else None)
        yield table


def row_groups(folder: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield each row group of `folder` as a table. Raises BadInput if a shard is missing or damaged."""
    for shard in manifest(folder)["shards"]:
        path = Path(folder) / shard["name"]
        with _readable(path):
            verify(path, shard.get("sha256"))
        with _readable(path), pq.ParquetFile(path, pre_buffer=False) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, list(columns) if columns else None)


def schema(folder: Path) -> pa.Schema:
    """Return the schema of the rows of `folder`. Raises BadInput if its first shard is missing or damaged."""
    path = Path(folder) / manifest(folder)["shards"][0]["name"]
    with _readable(path):
        return pq.read_schema(path)


def batches(folder: Path, num_bytes: int = 8 << 20, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of `folder` in tables of about `num_bytes` before compression, at least one row each.

    columns: the columns to read, otherwise all; `num_bytes` is the size with all columns. A table never contains rows
    of two shards. Raises BadInput if a shard is missing or damaged.
    """
    for shard in manifest(folder)["shards"]:
        yield from shard_batches(folder, shard, num_bytes, columns)


def shard_batches(
    folder: Path, shard: Mapping[str, Any], num_bytes: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of one shard, an entry of the manifest of `folder`, as `batches` does."""
    path = Path(folder) / shard["name"]
    with _readable(path):
        verify(path, shard.get("sha256"))
    # With pre_buffer, which is the default, Arrow would hold the compressed bytes of the whole shard in memory.
    with _readable(path), pq.ParquetFile(path, pre_buffer=False) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        parts = max(1, sum(group.total_byte_size for group in groups) // num_bytes)
        num_rows = max(1, -(-file.metadata.num_rows // parts))
        parquet_batches = file.iter_batches(num_rows, columns=list(columns) if columns else None)
        while (batch := next(parquet_batches, None)) is not None:
            yield pa.Table.from_batches([batch])


def num_bytes(folder: Path) -> int:
    """Return the size of the rows of `folder` in bytes, encoded but not compressed. Raises BadInput."""
    size = 0
    for shard in manifest(folder)["shards"]:
        path = Path(folder) / shard["name"]
        with _readable(path):
            metadata = pq.read_metadata(path)
        size += sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return size


def digest(folder: Path, split: str) -> dict[str, Any]:
    """Return the number of rows of a split and one hash of their content columns.

    The hash depends neither on the order of the rows nor on ids and metadata, so that equal data sets are recognized.
    """
    columns = [name for name in manifest(folder)["columns"] if name in CONTENT_COLUMNS]
    hashes: list[bytes] = []
    for group in row_groups(folder, [*columns, "split"]):
        rows = group.filter(pc.equal(group["split"], split)).select(columns).to_pylist()
        hashes += [hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest() for row in rows]
    return {"examples": len(hashes), "digest": hashlib.sha256(b"".join(sorted(hashes))).hexdigest()[:16]}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput(f"{path} is missing. Run the stage that writes it again, or `dvc checkout`.") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInput(f"{path} cannot be read ({error}). Run the stage that writes it again.") from error
