"""Tables: a folder with a manifest is complete, one without is not; same rows, same bytes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import documents, tables
from tasks.errors import BadInput
from tasks.files import sha256


def rows(count: int) -> list[dict[str, str]]:
    return [
        documents.Document(id=f"d{i}", text="字" * i, group="g", metadata={"b": 1, "a": "é"}).row("s", "train")
        for i in range(count)
    ]


def write_rows(folder: Path, count: int, shard_bytes: int = 1 << 20) -> None:
    with tables.Writer(folder, documents.SCHEMA, shard_bytes=shard_bytes, batch_rows=3) as writer:
        for row in rows(count):
            writer.add_row(row)


def test_rows_come_back_in_order_across_shards(tmp_path: Path) -> None:
    write_rows(tmp_path, 10, shard_bytes=1)
    assert [shard["rows"] for shard in tables.manifest(tmp_path)["shards"]] == [3, 3, 3, 1]
    assert tables.read(tmp_path).to_pylist() == rows(10)
    assert [t.num_rows for t in tables.shards(tmp_path, ["id"])] == [3, 3, 3, 1]


@pytest.mark.parametrize("read", [tables.batches, tables.row_groups])
def test_a_shard_is_read_without_all_of_it_in_memory(tmp_path: Path, read: Callable[..., Iterator[pa.Table]]) -> None:
    """64 row groups of 64 kB that cannot be compressed; 8 of them and their decoded rows fit in an eighth of all."""
    schema = pa.schema([pa.field("text", pa.large_binary())])
    with tables.Writer(tmp_path, schema, group_bytes=1 << 16, batch_rows=1) as writer:
        for _ in range(64):
            writer.add_row({"text": os.urandom(1 << 16)})
    size = (tmp_path / "00000.parquet").stat().st_size
    arguments = [1 << 16] if read is tables.batches else []
    before, peak = pa.total_allocated_bytes(), 0
    for table in read(tmp_path, *arguments):
        peak = max(peak, pa.total_allocated_bytes() - before)
        assert table.num_rows == 1
    assert size >= 1 << 22
    assert peak < size / 8


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    write_rows(tmp_path, 0)
    assert tables.read(tmp_path).schema.equals(documents.SCHEMA)
    assert tables.manifest(tmp_path)["rows"] == 0


def test_an_exception_leaves_no_manifest_and_removes_the_old_one(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    with pytest.raises(RuntimeError), tables.Writer(tmp_path, documents.SCHEMA):
        raise RuntimeError
    with pytest.raises(BadInput, match=r"manifest\.json is missing"):
        tables.read(tmp_path)


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_rows(tmp_path / name, 7)
    assert sha256(tmp_path / "a/00000.parquet") == sha256(tmp_path / "b/00000.parquet")
    assert sha256(tmp_path / "a/manifest.json") == sha256(tmp_path / "b/manifest.json")


def test_columns_are_put_in_the_order_of_the_schema(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(2)).select(documents.SCHEMA.names[::-1])
    assert tables.write(tmp_path, documents.SCHEMA, [table]) == 2
    assert tables.read(tmp_path).column_names == documents.SCHEMA.names


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path, 5)
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(BadInput, match=r"00000\.parquet is damaged"):
        tables.read(tmp_path)
    (tmp_path / "00000.parquet").unlink()
    for read in (tables.read, tables.num_bytes, lambda folder: list(tables.batches(folder))):
        with pytest.raises(BadInput, match=r"00000\.parquet is missing.*dvc checkout"):
            read(tmp_path)


@pytest.mark.parametrize("place", [5, 40, -3])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    write_rows(tmp_path, 50)
    assert tables.read(tmp_path).num_rows == 50
    body = bytearray((tmp_path / "00000.parquet").read_bytes())
    body[place] ^= 1
    (tmp_path / "00000.parquet").write_bytes(body)
    for read in (tables.read, lambda folder: list(tables.batches(folder))):
        with pytest.raises(BadInput, match=r"00000\.parquet is damaged"):
            read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"rows": ', encoding="utf-8")
    with pytest.raises(BadInput, match=r"manifest\.json is damaged"):
        tables.read(tmp_path)


def test_batches_are_the_rows_in_order_and_a_damaged_shard_is_named(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("text", pa.large_string())])
    table = pa.table({"text": [str(i) * 50 for i in range(1000)]}, schema=schema)
    with tables.Writer(tmp_path, schema, shard_bytes=20_000) as writer:
        for start in range(0, 1000, 100):
            writer.add_table(table.slice(start, 100))
    for num_bytes in (1, 4_000, 1 << 20):
        parts = list(tables.batches(tmp_path, num_bytes))
        assert pa.concat_tables(parts).equals(table)
        assert len(parts) >= len(tables.manifest(tmp_path)["shards"])
    (tmp_path / "00001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadInput, match=r"00001\.parquet is damaged"):
        list(tables.batches(tmp_path))


def test_a_digest_depends_on_content_only(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(5), schema=documents.SCHEMA)
    other = table.set_column(0, table.schema.field("id"), pa.array([f"other {i}" for i in range(5)]))
    for name, parts in {"one": [table], "two": [other.slice(3), other.slice(0, 3)], "less": [table.slice(1)]}.items():
        tables.write(tmp_path / name, documents.SCHEMA, parts)
    one, two, less = (tables.digest(tmp_path / name, "train") for name in ("one", "two", "less"))
    assert one == two != less
    assert (one["examples"], less["examples"]) == (5, 4)
    assert tables.digest(tmp_path / "one", "test")["examples"] == 0


def test_the_size_is_that_before_compression(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(rows(1), schema=documents.SCHEMA)
    long = pa.array(["x" * 10**6], pa.large_string())
    tables.write(tmp_path, documents.SCHEMA, [table.set_column(1, table.schema.field("text"), long)])
    assert 10**6 < tables.num_bytes(tmp_path) < 2 * 10**6 + 1000  # a page, and perhaps a dictionary of it


def test_a_shard_is_written_group_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "GROUP_BYTES", 1)
    write_rows(tmp_path, 10, shard_bytes=1 << 20)
    assert [shard["rows"] for shard in tables.manifest(tmp_path)["shards"]] == [10]
    assert pq.read_metadata(tmp_path / "00000.parquet").num_row_groups == 4
    assert tables.read(tmp_path).to_pylist() == rows(10)
    assert sum(part.num_rows for part in tables.batches(tmp_path, 100)) == 10
