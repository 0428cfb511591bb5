"""Dialects of CSV: what RFC 4180 allows, what common programs write, and messages that name the dialect."""

from pathlib import Path
from typing import Any

import pytest

from tasks.ingestion.sources import csv
from tasks.tables import Quarantined
from tests.ingestion.world import read

LINES = "\n".join(f"line {i}" for i in range(1000))
DIALECTS = {
    "byte order mark": ("\ufefftext,id\none,1\n", ["one"]),
    "byte order mark before a quote": ('\ufeff"text","id"\n"one, two",1\n', ["one, two"]),
    "value of 1,000 lines": (f'text,id\n"{LINES}",1\nnext,2\n', [LINES, "next"]),
    "quotes on many lines": ('text,id\n"a ""b""\nc ""d""\n""e""",1\nnext,2\n', ['a "b"\nc "d"\n"e"', "next"]),
    "quotes as Spark writes them": ('text,id\n"say \\"hi\\" now",1\nnext,2\n', ['say "hi" now', "next"]),
    "quotes of Spark on several lines": ('text,id\n"say \\"hi\\"\nnow",1\nnext,2\n', ['say "hi"\nnow', "next"]),
    "backslash before the closing quote": ('text,id\n"C:\\dir\\",1\nnext,2\n', ["C:\\dir\\", "next"]),
    "semicolons, commas in a name": ('text;"a,b,c,d";id\none;x;1\n', ["one"]),
    "delimiter named by Excel": ("sep=;\ntext;id\none;1\n", ["one"]),
    "space before a quote": ('id, text\n1, "one, two"\n', ["one, two"]),
    "empty column at the end of each line": ("text,id,\none,1,\ntwo,2,\n", ["one", "two"]),
    "empty value beyond the last column": ("text,id\none,1,\ntwo,2,\n", ["one", "two"]),
    "NA as text": ("text,id\nNA,1\nnull,2\n\\N,3\n", ["NA", "null", "\\N"]),
    "tab-separated with quotes as characters": ('text\tid\nhe said "no\t1\n"quoted" start\t2\nend\t3\n', None),
    "tab-separated with an open quote": ('text\tid\n"open\t1\nend\t3\n', ['"open', "end"]),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(dialect: str, tmp_path: Path) -> None:
    content, texts = DIALECTS[dialect]
    expected = ['he said "no', '"quoted" start', "end"] if texts is None else texts
    assert read(csv, tmp_path / "a.csv", content.encode()) == (expected, [])


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(encoding: str, line_end: str, tmp_path: Path) -> None:
    content = line_end.join(["text,id", "今天的天气很好，我们去公园,1", "two,2", ""])
    expected = ["今天的天气很好，我们去公园", "two"]
    assert read(csv, tmp_path / "a.csv", content.encode(encoding)) == (expected, [])


def test_messages_name_the_dialect_and_the_fix(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;id\none;1;2\ntwo;2\n")
    first, _ = csv.read(csv.Params(paths=str(tmp_path)))
    assert isinstance(first, Quarantined)
    assert first.detail == (
        "The row has 3 columns, the header 2. The file is read as values between semicolons, with quotes as in "
        "RFC 4180 (param `delimiter`)."
    )


def test_every_row_below_an_unusable_header_is_counted(tmp_path: Path) -> None:
    assert read(csv, tmp_path / "a.csv", b"one,1\ntwo,2\nthree,3\n") == ([], ["missing_field"] * 3)


def test_a_row_is_bounded_in_bytes(tmp_path: Path) -> None:
    content = f'text,id\n"{LINES}",1\nnext,2\n'.encode()
    kept, reasons = read(csv, tmp_path / "a.csv", content, max_row_bytes=1000)
    assert kept[-1] == "next"
    assert reasons[0] == "unclosed_quote"
    assert len(kept) + len(reasons) == 1001


def test_open_quotes_are_read_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line opens a quote, so that every row is searched for its end: the characters parsed are counted."""
    parse = csv._RowReader._parse
    num_parsed = 0

    def counting(reader: csv._RowReader, text: str) -> Any:
        nonlocal num_parsed
        num_parsed += len(text)
        return parse(reader, text)

    monkeypatch.setattr(csv._RowReader, "_parse", counting)

    def characters(num_lines: int) -> int:
        nonlocal num_parsed
        num_parsed = 0
        kept, reasons = read(csv, tmp_path / "a.csv", b"text,id\n" + b'"one,1\n' * num_lines)
        assert len(kept) + len(reasons) == num_lines
        return num_parsed

    assert characters(4_000) < 2.3 * characters(2_000)
