"""Convert the columns of a Parquet row to values as they occur in JSON: maps, binary text, and structs of lists."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
from pyarrow import types

from tasks.ingestion.decoding import UnusableRecord

Convert = Callable[[Any], Any]
_ERRORS = (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError, TypeError)


def read_rows(batch: pa.RecordBatch) -> list[Mapping[str, Any] | UnusableRecord]:
    """Return the rows of a batch. A row with a value that Python cannot represent is returned as UnusableRecord."""
    converters = {field.name: convert for field in batch.schema if (convert := _find_converter(field.type))}
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        for name, convert in converters.items():
            for row in rows:
                row[name] = convert(row[name])
    except _ERRORS:
        return [_read_row(batch, index, converters) for index in range(batch.num_rows)]
    return list(rows)


def _read_row(batch: pa.RecordBatch, index: int, converters: dict[str, Convert]) -> Mapping[str, Any] | UnusableRecord:
    row = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            value = column[index].as_py()
            row[name] = converters[name](value) if name in converters else value
        except UnicodeDecodeError as error:
            detail = f"The column {name!r} is not valid UTF-8 at byte {error.start}."
            return UnusableRecord("invalid_utf8", detail, name)
        except _ERRORS as error:
            message = (str(error).splitlines() or [type(error).__name__])[0][:200]
            detail = f"The column {name!r} of type {column.type} has a value that cannot be read: {message}."
            return UnusableRecord("wrong_type", detail, name)
    return row


def _find_converter(kind: pa.DataType) -> Convert | None:
    """Return the function that converts values of a type, None if they stay as they are."""
    if types.is_dictionary(kind):
        return _find_converter(kind.value_type)
    if _is_binary(kind):
        return _decode
    if types.is_map(kind):
        inner = _find_converter(kind.item_type)
        return lambda value: value and {str(key): inner(item) if inner else item for key, item in value}
    if types.is_struct(kind):
        return _find_struct_converter(kind)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _find_converter(kind.value_type)
        return None if inner is None else lambda value: value and [inner(item) for item in value]
    return None


def _find_struct_converter(kind: pa.StructType) -> Convert | None:
    fields = [kind.field(index) for index in range(kind.num_fields)]
    converters = {field.name: convert for field in fields if (convert := _find_converter(field.type))}
    names = {field.name for field in fields}
    is_message = names >= {"role", "content"} or names >= {"from", "value"}
    if is_message and all(types.is_list(f.type) or types.is_large_list(f.type) for f in fields):
        return _transpose  # how `datasets` stores a list of messages (its feature Sequence)
    if not converters:
        return None
    return lambda value: (
        value and {name: converters[name](item) if name in converters else item for name, item in value.items()}
    )


def _transpose(value: dict[str, list[Any] | None] | None) -> list[dict[str, Any]] | None:
    """{"role": ["user", ...], "content": [...]} -> [{"role": "user", "content": ...}, ...]"""
    if value is None:
        return None
    columns = [values or [] for values in value.values()]
    return [dict(zip(value, items, strict=True)) for items in zip(*columns, strict=True)]


def _is_binary(kind: pa.DataType) -> bool:
    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(test(kind) for test in tests)


def _decode(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
