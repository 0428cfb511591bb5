"""Parquet columns of every type that holds text, values that Python cannot represent, and the counts of rows."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.conversations import Conversation
from tasks.documents import Document
from tasks.ingestion.sources import parquet
from tasks.tables import Quarantined
from tests.ingestion.world import outcome

TYPES = {
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
}


def write(path: Path, columns: dict[str, Any], **options: Any) -> parquet.Params:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return parquet.Params(paths=str(path))


@pytest.mark.parametrize("kind", TYPES)
def test_text_of_every_type(kind: str, tmp_path: Path) -> None:
    array = pa.array(["one", None, "中文"]).cast(TYPES[kind])
    params = write(tmp_path / "a.parquet", {"text": array})
    assert outcome(list(parquet.read(params))) == (["one", "中文"], ["missing_field"])


def test_binary_that_is_no_text_costs_its_row(tmp_path: Path) -> None:
    params = write(tmp_path / "a.parquet", {"text": pa.array([b"one", b"\xff", b"two"])})
    assert outcome(list(parquet.read(params))) == (["one", "two"], ["invalid_utf8"])


@pytest.mark.parametrize("nested", [False, True])
def test_a_timestamp_out_of_range_costs_its_row(nested: bool, tmp_path: Path) -> None:
    stamps = pa.array([1] * 1500 + [2**62] + [1] * 1499, pa.timestamp("us"))
    column = pa.StructArray.from_arrays([stamps], ["at"]) if nested else stamps
    write(tmp_path / "a.parquet", {"text": [f"row {i}" for i in range(3000)], "metadata": column})
    kept, reasons = outcome(list(parquet.read(parquet.Params(paths=str(tmp_path)))))
    assert (len(kept), reasons) == (2999, ["wrong_type"])
    assert "row 1500" not in kept


def test_every_row_of_a_damaged_group_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [f"row {i}" for i in range(300)]
    params = write(path, {"text": rows}, row_group_size=100, compression="zstd", write_page_checksum=True)
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[(group.dictionary_page_offset or group.data_page_offset) + group.total_compressed_size - 9] ^= 0xFF
    path.write_bytes(content)
    found = list(parquet.read(params))
    assert [row.num_records for row in found if isinstance(row, Quarantined)] == [100]
    assert sum(isinstance(row, Document) for row in found) == 200


@pytest.mark.parametrize(("columns", "reason"), [({"body": ["x"] * 7}, "missing_field"), (None, "duplicate_key")])
def test_every_row_of_a_file_without_usable_columns_is_counted(
    columns: dict[str, Any] | None, reason: str, tmp_path: Path
) -> None:
    table = pa.table(columns) if columns else pa.Table.from_arrays([pa.array(["x"] * 7)] * 2, ["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = parquet.read(parquet.Params(paths=str(tmp_path)))
    assert isinstance(row, Quarantined)
    assert (row.reason, row.num_records) == (reason, 7)


def test_a_column_with_a_point_in_its_name_and_a_field_of_a_struct(tmp_path: Path) -> None:
    for columns in ({"page.body": ["one"]}, {"page": [{"body": "one"}]}):
        write(tmp_path / "a.parquet", columns)
        params = parquet.Params(paths=str(tmp_path), fields={"text": "page.body"})
        assert outcome(list(parquet.read(params))) == (["one"], [])


def test_folders_as_hive_writes_them(tmp_path: Path) -> None:
    write(tmp_path / "lang=en/a.parquet", {"text": ["one"]})
    write(tmp_path / "lang=zh%20TW/a.parquet", {"text": ["two"]})
    write(tmp_path / "_metadata.parquet", {"text": ["x"]})
    rows = list(parquet.read(parquet.Params(paths=str(tmp_path), metadata=("lang",))))
    assert [(row.text, row.metadata) for row in rows if isinstance(row, Document)] == [
        ("one", {"lang": "en"}),
        ("two", {"lang": "zh TW"}),
    ]
    assert len(rows) == 2


MESSAGES: dict[str, Any] = {
    "list of structs": pa.array([[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]]),
    "list of maps": pa.array(
        [[[("role", "user"), ("content", "q")], [("role", "assistant"), ("content", "a")]]],
        pa.list_(pa.map_(pa.string(), pa.string())),
    ),
    "struct of lists": pa.array([{"role": ["user", "assistant"], "content": ["q", "a"]}]),
    "binary content": pa.array([[{"role": "user", "content": b"q"}, {"role": "assistant", "content": b"a"}]]),
}


@pytest.mark.parametrize("layout", MESSAGES)
def test_messages_of_every_layout(layout: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"messages": MESSAGES[layout]})
    (row,) = parquet.read(parquet.Params(paths=str(tmp_path), kind="conversations"))
    assert isinstance(row, Conversation)
    assert [m["content"] for m in row.messages] == ["q", "a"]
