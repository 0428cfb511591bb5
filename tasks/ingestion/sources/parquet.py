"""Parquet files: documents, conversations or preferences. Damage costs its row group, an invalid value its row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.ingestion import records
from tasks.ingestion.decoding import Location, UnusableRecord
from tasks.ingestion.decompression import MIN_BOMB
from tasks.ingestion.fields import normalize_name
from tasks.ingestion.opening import FileParams, InputFile, find_files

SUFFIXES = (".parquet", ".pq")
BATCH_ROWS = 1024
# With a dictionary encoding, a few distinct values may represent many rows. Each value may then be large in memory,
# although the row group is small on disk, so fewer rows are read at once.
DICTIONARY_BATCH_ROWS = 16
MAX_DICTIONARY_ROW_BYTES = 16
MAX_FOOTER_ITEMS = 1_000_000  # a damaged footer may claim more, and pyarrow would allocate memory for them
_DAMAGE = (OSError, pa.ArrowException, ValueError, MemoryError, OverflowError)


class Params(FileParams, records.RowParams, frozen=True, extra="forbid"):
    """Which files to read, and the names of their columns. `encoding` is ignored: text in Parquet is UTF-8."""


def read(params: Params) -> Iterator[records.Record]:
    """Yield the records of every file. Raises BadInput if a path is missing."""
    for file in find_files(params.paths, SUFFIXES):
        yield from read_file(file, params)


def read_file(file: InputFile, params: Params) -> Iterator[records.Record]:
    """Yield the records of one file. `line` of a quarantined record is the number of its row, from 1."""
    with file.open() as opened:
        try:
            table = _open(opened, params)
        except UnusableRecord as error:
            yield Location(file.name).quarantine(error)
            return
        row = 1
        for group in range(table.file.num_row_groups):
            yield from _read_row_group(table, group, Location(file.name, row), params)
            row += table.file.metadata.row_group(group).num_rows


def from_batch(batch: pa.RecordBatch, first: Location, params: records.RowParams) -> Iterator[records.Record]:
    """Yield the records of a batch whose first row is at `first`."""
    row = first.line or 1
    try:
        rows = batch.to_pylist()
    except (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError):
        rows = [_convert_row(batch, index) for index in range(batch.num_rows)]
    for index, values in enumerate(rows):
        location = Location(first.file, row + index)
        if isinstance(values, UnusableRecord):
            yield location.quarantine(values)
        else:
            yield from records.from_row(values, location, params)


@dataclass(frozen=True, slots=True)
class _OpenTable:
    file: pq.ParquetFile
    columns: list[str]
    num_bytes: int  # of the file


def _open(opened: Any, params: Params) -> _OpenTable:
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
    return _OpenTable(file, _columns_to_read(file, params), num_bytes)


def _columns_to_read(table: pq.ParquetFile, params: Params) -> list[str]:
    """Return the columns that params name. Raises UnusableRecord if none of the required ones exists."""
    try:
        available = list(table.schema_arrow.names)
    except _DAMAGE as error:
        raise _damaged("The schema", error) from None
    if not params.recognizes(available):
        detail = f"There is no column {', '.join(sorted(params.names))}; available: {', '.join(available[:10])}."
        raise UnusableRecord("missing_field", detail)
    columns = params.columns
    return [name for name in available if normalize_name(name) in columns or "*" in params.metadata]


def _read_row_group(table: _OpenTable, group: int, first: Location, params: Params) -> Iterator[records.Record]:
    row = first.line or 1
    try:
        batch_rows = _batch_rows(table.file.metadata.row_group(group), table.num_bytes, params)
        for batch in table.file.iter_batches(batch_rows, [group], table.columns, use_threads=False):
            yield from from_batch(batch, Location(first.file, row), params)
            row += batch.num_rows
    except UnusableRecord as error:
        yield Location(first.file, row).quarantine(error)
    except _DAMAGE as error:
        yield Location(first.file, row).quarantine(_damaged(f"Row group {group} from row {row} on", error))


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


def _convert_row(batch: pa.RecordBatch, index: int) -> Mapping[str, Any] | UnusableRecord:
    try:
        return dict(batch.slice(index, 1).to_pylist()[0])
    except UnicodeDecodeError as error:
        return UnusableRecord("invalid_utf8", f"A value is not valid UTF-8 at byte {error.start}.")
    except (pa.ArrowException, ValueError, OverflowError) as error:
        return UnusableRecord("wrong_type", str(error).splitlines()[0][:200])


def _damaged(part: str, error: BaseException) -> UnusableRecord:
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return UnusableRecord("damaged_parquet", f"{part} cannot be read: {message[:200]}")
