"""Parquet files: documents, conversations or preferences. Damage costs its row group, an invalid value its row."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ingestion import records
from tasks.ingestion.decoding import Location, UnusableRecord
from tasks.ingestion.fields import normalize_name
from tasks.ingestion.files.decompression import MIN_BOMB
from tasks.ingestion.formats import columns
from tasks.ingestion.opening import FileParams, InputFile, read_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.tables import Quarantined

SUFFIXES = (".parquet", ".pq")
BATCH_ROWS = 1024
# With a dictionary encoding, a few distinct values may represent many rows. Each value may then be large in memory,
# although the row group is small on disk, so fewer rows are read at once.
DICTIONARY_BATCH_ROWS = 16
MAX_DICTIONARY_ROW_BYTES = 16
MAX_FOOTER_ITEMS = 1_000_000  # a damaged footer may claim more, and pyarrow would allocate memory for them
Groups = tuple[int, int, int]
"""Some row groups of a file: the first one, the one after the last, and the number of the first row, from 1."""
_DAMAGE = (OSError, pa.ArrowException, ValueError, MemoryError, OverflowError)


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and the names of their columns. `encoding` is ignored: text in Parquet is UTF-8."""


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in read_files(params, SUFFIXES, counts):
        yield from [file] if isinstance(file, Quarantined) else read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file. `line` of a quarantined record is the number of its row, from 1."""
    with file.open() as opened:
        try:
            table = _open(opened, file.name, params)
        except UnusableRecord as error:
            file.count_rows()
            yield Location(file.name).quarantine(error)
            return
        if table.unusable:
            file.count_rows(max(1, table.file.metadata.num_rows))
            yield Location(file.name).quarantine(table.unusable, max(1, table.file.metadata.num_rows))
            return
        yield from _read_row_groups(table, (0, table.file.num_row_groups, 1), file, params)


def divide(file: InputFile, params: Params, max_bytes: int) -> list[Groups]:
    """Return ranges of row groups for `read_range`; none if the file is read as a whole.

    max_bytes: of a range as it is on disk, if its share of the file is that of its size before compression.
    """
    with file.open() as opened:
        try:
            table = _open(opened, file.name, params)
        except UnusableRecord:
            return []
        if table.unusable:
            return []
        groups = [table.file.metadata.row_group(group) for group in range(table.file.num_row_groups)]
        ranges, first, row, size = list[Groups](), 0, 1, 0.0
        share = table.num_bytes / max(1, sum(group.total_byte_size for group in groups))
        for number, group in enumerate(groups):
            if number > first and size + group.total_byte_size * share > max_bytes:
                ranges.append((first, number, row))
                row += sum(each.num_rows for each in groups[first:number])
                first, size = number, 0
            size += group.total_byte_size * share
        return [*ranges, (first, len(groups), row)] if ranges else []


def read_range(file: InputFile, params: Params, part: Groups) -> Iterator[records.Record]:
    """Yield the records of some row groups of one file."""
    with file.open() as opened:
        yield from _read_row_groups(_open(opened, file.name, params), part, file, params)


def _read_row_groups(table: "_OpenTable", groups: Groups, file: InputFile, params: Params) -> Iterator[records.Record]:
    first, end, row = groups
    for group in range(first, end):
        num_rows = table.file.metadata.row_group(group).num_rows
        file.count_rows(num_rows)
        file.counts.add_unused_columns(file.name, table.unused_columns, num_rows)
        yield from _read_row_group(table, group, Location(file.name, row), num_rows, params)
        row += num_rows


def from_batch(batch: pa.RecordBatch, first: Location, params: records.RowParams) -> Iterator[records.Record]:
    """Yield the records of a batch whose first row is at `first`."""
    row = first.line or 1
    for index, values in enumerate(columns.read_rows(batch)):
        location = Location(first.file, row + index)
        if isinstance(values, UnusableRecord):
            yield location.quarantine(values)
        else:
            yield from records.from_row(values, location, params)


@dataclass(frozen=True, slots=True)
class _OpenTable:
    file: pq.ParquetFile
    columns: list[str]
    unused_columns: frozenset[str]
    num_bytes: int  # of the file
    partition: dict[str, str]  # the values in the names of its folders, as Hive writes them: lang=en
    unusable: UnusableRecord | None = None


def _open(opened: Any, name: str, params: Params) -> _OpenTable:
    num_bytes = opened.seek(0, 2)
    if not num_bytes:
        raise UnusableRecord("empty_file", "The file has no bytes.")
    opened.seek(0)
    try:
        file = pq.ParquetFile(
            pa.PythonFile(opened, mode="r"),
            pre_buffer=False,  # it would hold all row groups in memory
            thrift_container_size_limit=MAX_FOOTER_ITEMS,
            page_checksum_verification=True,
        )
    except _DAMAGE as error:
        raise _damaged("The footer", error) from None
    try:
        available = list(file.schema_arrow.names)
    except _DAMAGE as error:
        raise _damaged("The schema", error) from None
    folders = [part.partition("=") for part in name.split("/")[:-1] if part.count("=") == 1]
    present = {normalize_name(column) for column in available}
    partition = {
        key: unquote(value)
        for key, _, value in folders
        if normalize_name(key) in params.columns and normalize_name(key) not in present
    }
    try:
        to_read = _columns_to_read(available, params)
    except UnusableRecord as error:
        return _OpenTable(file, [], frozenset(), num_bytes, partition, error)
    unused = params.unused_columns(available) | (set(available) - set(to_read))
    return _OpenTable(file, to_read, unused, num_bytes, partition)


def _columns_to_read(available: list[str], params: Params) -> list[str]:
    """Return the columns that params name. Raises UnusableRecord if none of the required ones exists, or one twice."""
    full_names = {*params.fields.model_dump().values(), *params.metadata}  # a column may have a point in its name
    to_read = [name for name in available if normalize_name(name) in params.columns or name in full_names]
    if not params.recognizes(to_read) and not any(name in full_names and "." in name for name in to_read):
        detail = f"There is no column {', '.join(sorted(params.names))}; available: {', '.join(available[:10])}."
        raise UnusableRecord("missing_field", f"{detail} `fields` in params.yaml maps other names.")
    if duplicates := [name for name in to_read if available.count(name) > 1]:
        detail = f"The file has {available.count(duplicates[0])} columns of the name {duplicates[0]!r}; rename one."
        raise UnusableRecord("duplicate_key", detail, duplicates[0])
    return to_read


def _read_row_group(
    table: _OpenTable, group: int, first: Location, num_rows: int, params: Params
) -> Iterator[records.Record]:
    """Yield the records of a row group. Where it is damaged, the rest of its `num_rows` rows is quarantined."""
    row = first.line or 1
    end = row + num_rows
    for batch in _read_batches(table, group, row, params):
        if isinstance(batch, UnusableRecord):
            yield Location(first.file, row).quarantine(batch, max(1, end - row))
            return
        yield from from_batch(batch.slice(0, end - row), Location(first.file, row), params)
        row += batch.num_rows
    if row < end:
        detail = f"Row group {group} has {num_rows} rows by its metadata, and {end - row} of them are missing."
        yield Location(first.file, row).quarantine(UnusableRecord("damaged_parquet", detail), end - row)


def _read_batches(table: _OpenTable, group: int, row: int, params: Params) -> Iterator[pa.RecordBatch | UnusableRecord]:
    """Yield the batches of a row group, and an error in place of the first one that cannot be read.

    The rows are used outside of this function, so that no error in their use is taken for damage of the file.
    """
    try:
        batch_rows = _batch_rows(table.file.metadata.row_group(group), table.num_bytes, params)
        batches = table.file.iter_batches(batch_rows, [group], table.columns, use_threads=False)
        while (batch := next(batches, None)) is not None:
            for name, value in table.partition.items():
                batch = batch.append_column(name, pa.array([value] * batch.num_rows))
            yield batch
            row += batch.num_rows
    except UnusableRecord as error:
        yield error
    except _DAMAGE as error:
        yield _damaged(f"Row group {group} from row {row} on", error)


def _batch_rows(group: Any, file_bytes: int, params: Params) -> int:
    """Return how many rows to read at once. Raises UnusableRecord if the row group is a decompression bomb.

    Only the totals of the row group are used: in pyarrow 25, `RowGroupMetaData.column` aborts the process if the footer
    is damaged.
    """
    size = group.total_byte_size
    if size > MIN_BOMB and size > params.max_ratio * file_bytes:
        detail = f"A row group of {size} bytes is in a file of {file_bytes} bytes. If it is valid, raise max_ratio."
        raise UnusableRecord("decompression_bomb", detail)
    is_dictionary = BATCH_ROWS < size < MAX_DICTIONARY_ROW_BYTES * group.num_rows
    return DICTIONARY_BATCH_ROWS if is_dictionary else BATCH_ROWS


def _damaged(part: str, error: BaseException) -> UnusableRecord:
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return UnusableRecord("damaged_parquet", f"{part} cannot be read: {message[:200]}")
