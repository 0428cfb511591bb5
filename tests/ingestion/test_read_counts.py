"""Every row that a reader counts becomes records, is quarantined or is skipped; each file has its own account."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from tasks import catalog, tables
from tasks.documents import Document
from tasks.errors import LostRows, NothingLeft
from tasks.files import read_json
from tasks.ingestion import tasks
from tasks.ingestion.read_counts import ReadCounts
from tests.ingestion.test_tasks import ingest

WARC_RECORD = (
    "WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: text/plain\r\nContent-Length: {size}\r\n\r\n{text}\r\n\r\n"
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def account(path: str, source: str, **params: Any) -> tuple[int, int, int, int]:
    """Ingest one file, and return the rows read, kept, quarantined and skipped."""
    ingest({"own": {"source": source, "paths": path, **params}})
    (row,) = [row for row in read_json(Path("data/reports/ingestion/files.json")) if row["source"] == "own"]
    assert row["file"] == path
    return row["read"], row["kept"], row["quarantined"], row["skipped"]


def warc(*kinds: str) -> str:
    return "".join(WARC_RECORD.format(kind=kind, size=4, text="text") for kind in kinds)


@pytest.mark.parametrize(
    ("name", "content", "params", "expected"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": ""}\n{"text": "b"}\n', {}, (3, 2, 1, 0)),
        ("a.json", json.dumps([{"text": "a"}, {"text": 1}, {"text": "b"}, {}]), {}, (4, 2, 2, 0)),
        ("a.json", json.dumps({"data": [{"text": "a"}, 5, {"text": "b"}]}), {"records": "data"}, (3, 2, 1, 0)),
        ("a.csv", 'text,n\n"a\nb",1\nc,1,2\nd,3\n', {}, (3, 2, 1, 0)),
        ("a.txt", "a\n\nb\nc\n", {"source": "text"}, (1, 1, 0, 0)),
        ("a.txt", "a\n\nb\nc\n", {"source": "text", "per": "line"}, (3, 3, 0, 0)),
        ("a.txt", "a\n\nb\nc\n", {"source": "text", "per": "paragraph"}, (2, 2, 0, 0)),
        ("a.md", "# a\n", {"source": "markdown"}, (1, 1, 0, 0)),
        ("a.wet", warc("warcinfo", "conversion", "conversion", "odd"), {"source": "warc"}, (4, 2, 1, 1)),
    ],
)
def test_the_rows_of_a_file(name: str, content: str, params: dict[str, Any], expected: tuple[int, ...]) -> None:
    Path(name).write_text(content, newline="")
    source = {".json": "jsonl"}.get(Path(name).suffix, name.split(".")[1])
    assert account(name, **{"source": source, **params}) == expected


def test_a_line_that_cannot_be_decoded_is_a_row_beside_its_text() -> None:
    Path("a.txt").write_bytes("好的。\n".encode() + b"\xff\xfe\n" + "再见。\n".encode())
    assert account("a.txt", "text") == (2, 1, 1, 0)


def test_a_timestamp_out_of_range_costs_its_row_of_a_row_group() -> None:
    times = pa.array([0, 2**62, 1, 2], pa.timestamp("us"))
    pq.write_table(pa.table({"text": ["a", "b", "c", "d"], "time": times}), "a.parquet")
    assert account("a.parquet", "parquet", metadata=["time"]) == (4, 3, 1, 0)


def test_one_row_may_be_several_records_and_two_rows_one_record() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "answers": ["best", "good", "bad"]},
        {"prompt": "b", "completion": "yes", "label": True},
        {"prompt": "b", "completion": "no", "label": False},
        {"prompt": "c", "completion": "alone", "label": True},
    ]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert account("a.jsonl", "jsonl", kind="preferences") == (4, 4, 0, 0)
    assert tables.read(Path("data/preferences/raw")).num_rows == 5


def test_the_report_names_format_unused_columns_and_examples() -> None:
    chats = [{"instruction": "q", "input": "", "output": "a", "score": 1}, {"instruction": "q", "note": "x"}]
    Path("a.jsonl").write_text("\n".join(map(json.dumps, chats)))
    account("a.jsonl", "jsonl", kind="conversations")
    row = next(row for row in read_json(Path("data/reports/ingestion/files.json")) if row["source"] == "own")
    assert row["formats"] == {"Alpaca": 1}
    assert row["unused_columns"] == {"note": 1, "score": 1}
    assert row["examples"] == ["user: q | assistant: a"]
    assert row["quarantined_examples"][0].startswith("line 2: missing_field: There is no answer")
    assert "columns not used: note 1, score 1" in read_json(Path("data/reports/ingestion.json"))["summary"]
    assert "Alpaca" in Path("data/reports/ingestion/ingestion.html").read_text()
    assert "own,a.jsonl,Alpaca,2,1,1,0,missing_field 1," in Path("data/reports/ingestion/files.csv").read_text()


def test_sources_and_files_that_lose_most_rows_are_named() -> None:
    for name, num_bad in (("good", 1), ("bad", 9)):
        lines = ['{"text": "a"}'] * (10 - num_bad) + ["{"] * num_bad
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    source = {"own": {"source": "jsonl", "paths": ["good.jsonl", "bad.jsonl"]}}
    ingest(source)
    warning = "The file bad.jsonl keeps 1 of 10 rows (10 %): invalid_json 9."
    assert read_json(Path("data/reports/ingestion.json"))["notes"] == [warning]
    ingest(source, min_kept_share=0.05)
    assert "notes" not in read_json(Path("data/reports/ingestion.json"))
    with pytest.raises(NothingLeft, match=r"`ingestion\.strict`.* 1 warnings.* The file bad\.jsonl keeps"):
        ingest(source, strict=True)


class _Params(BaseModel, frozen=True, extra="forbid"):
    pass


def test_a_reader_that_loses_rows_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(params: _Params, counts: ReadCounts) -> Iterator[Document]:
        counts.add("web.txt", 3)
        yield Document("1", "text", "1", rows=("web.txt",))

    monkeypatch.setattr(catalog, "find", lambda *_: SimpleNamespace(Params=_Params, read=read))
    with pytest.raises(LostRows, match=r"'own'.* read 3 rows of web\.txt, but 1 rows became records"):
        ingest({"own": {"source": "web"}})
    assert tasks.Params(sources={"own": {"source": "web"}}).strict is False


def test_files_that_no_source_reads_are_counted_and_listed() -> None:
    for name in ("a.txt", "b.xlsx", "c.xml.gz", "d.csv", ".hidden.xlsx"):
        Path("raw", name).parent.mkdir(exist_ok=True)
        Path("raw", name).write_text("text\nA text.\n")
    with zipfile.ZipFile("raw/more.zip", "w") as archive:
        archive.writestr("e.txt", "A text.")
        archive.writestr("f.bin", "no text")
    ingest({name: {"source": name, "paths": "raw"} for name in ("text", "csv")})
    table = Path("data/reports/ingestion/files_not_read.csv").read_text(encoding="utf-8").splitlines()
    assert table == ["file,ending", "raw/b.xlsx,.xlsx", "raw/c.xml.gz,.xml.gz", "raw/more.zip/f.bin,.bin"]
    report = read_json(Path("data/reports/ingestion.json"))
    assert report["counts"]["files_not_read"] == 3
    assert report["notes"][0].startswith("3 files in the folders of the sources cannot be read by any of them")
    ingest({"text": {"paths": ["raw/a.txt"]}})  # a file that is named has no neighbors
    assert read_json(Path("data/reports/ingestion.json"))["counts"]["files_not_read"] == 0


def test_records_about_the_crawl_are_counted_by_their_types() -> None:
    Path("a.warc").write_text(warc("warcinfo", "request", "resource", "request"))
    assert account("a.warc", "warc") == (4, 1, 0, 3)
    report = read_json(Path("data/reports/ingestion.json"))
    assert "skipped 3: warc_request 2, warc_warcinfo 1" in report["summary"]
