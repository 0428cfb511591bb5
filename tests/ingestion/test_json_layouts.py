"""JSON files of every layout: the records of each, and the cost of an invalid one."""

import json
import tracemalloc
from pathlib import Path

import pytest

from tasks.ingestion.formats.json_values import _Splitter
from tasks.ingestion.sources import jsonl
from tasks.tables import Quarantined
from tests.ingestion.world import outcome, read

ONE, TWO = '{"text": "one"}', '{"text": "two"}'
LAYOUTS = {
    "array on one line": f"[{ONE},{TWO}]",
    "array, one record per line": f"[{ONE},\n{TWO}]",
    "array after a blank line": f"\n[\n{ONE},\n{TWO}]",
    "array, pretty-printed": json.dumps([json.loads(ONE), json.loads(TWO)], indent=2),
    "array with CRLF": f"[\r\n{ONE},\r\n{TWO}\r\n]\r\n",
    "array with a byte order mark": f"\ufeff[{ONE}, {TWO}]",
    "array in which records have lists": '[{"text": "one", "tags": [[1], {"a": "]"}]}, {"text": "two"}]',
    "objects, pretty-printed, one after another": '{\n "text": "one"\n}\n{\n "text": "two"\n}\n',
    "lines in a .json file": f"{ONE}\n{TWO}\n",
    "lines that end with a comma": f"{ONE},\n{TWO},\n",
    "lines with a byte order mark each": f"\ufeff{ONE}\n\ufeff{TWO}\n",
    "text sequence of RFC 7464": f"\x1e{ONE}\n\x1e{TWO}\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_records_of_every_layout(layout: str, suffix: str, tmp_path: Path) -> None:
    assert read(jsonl, tmp_path / f"a{suffix}", LAYOUTS[layout].encode()) == (["one", "two"], [])


def test_a_single_object_of_several_lines(tmp_path: Path) -> None:
    assert read(jsonl, tmp_path / "a.json", b'{\n "text": "one",\n "id": 1\n}\n') == (["one"], [])


def test_the_list_in_an_object_is_read_where_params_name_it(tmp_path: Path) -> None:
    content = f'{{"version": "1", "data": [{ONE}, {TWO}, 3]}}'.encode()
    assert read(jsonl, tmp_path / "a.json", content, records="data") == (["one", "two"], ["not_an_object"])
    assert read(jsonl, tmp_path / "a.json", content) == ([], ["missing_field"])
    assert read(jsonl, tmp_path / "a.json", content, records="rows") == ([], ["missing_field"])


BAD_ELEMENTS = {
    "invalid byte": (b'{"text": "a\xff"}', ["invalid_utf8"]),
    "no object": (b"12", ["not_an_object"]),
    "null": (b"null", ["not_an_object"]),
    "missing comma in it": (b'{"text": "a" "b"}', ["invalid_json"]),
    "string that is not closed": (b'{"text": "a},\n', ["invalid_json"]),
    "NUL": (b'{"text": "a\0"}', ["nul"]),
    "too long": (b'{"text": "' + b"a" * 3000 + b'"}', ["too_long"]),
}


@pytest.mark.parametrize("case", BAD_ELEMENTS)
def test_a_bad_record_of_an_array_costs_itself(case: str, tmp_path: Path) -> None:
    bad, reasons = BAD_ELEMENTS[case]
    good = '{"text": "一二"}'.encode()
    content = b"[" + b",\n".join([good, ONE.encode(), bad, TWO.encode()]) + b"]"
    assert read(jsonl, tmp_path / "a.json", content, max_line_bytes=2000) == (["一二", "one", "two"], reasons)


DAMAGES = {
    "no closing brace": '{"text": "bad"',
    "no closing brace, but a comma": '{"text": "bad",',
    "no closing quote": '{"text": "bad}',
    "no opening quote": '{"text": bad"}',
    "no quote at its key": '{text": "bad"}',
    "no closing bracket": '{"text": "bad", "tags": [1}',
    "closing bracket too many": '{"text": "bad"]}',
    "no brace at all": '"text": "bad"',
    "comment": "// a comment",
    "no comma within it": '{"text": "bad" "id": 1}',
    "backslash": '{"text": "bad\\',
}
FRAMES = {
    "lines": ("", "\n", ""),
    "array, one record per line": ("[", ",\n", "]"),
    "array, indented": ("[\n  ", ",\n  ", "\n]"),
    "array on one line": ("[", ", ", "]"),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("case", DAMAGES)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_damaged_record_costs_itself(frame: str, case: str, place: str, tmp_path: Path) -> None:
    start, separator, end = FRAMES[frame]
    good, bad = [json.dumps({"text": name}) for name in "abcd"], DAMAGES[case]
    rows = {"first": [bad, *good], "middle": [*good[:2], bad, *good[2:]], "last": [*good, bad]}[place]
    kept, reasons = read(jsonl, tmp_path / "a.json", (start + separator.join(rows) + end).encode())
    assert kept == ["a", "b", "c", "d"]
    assert 1 <= len(reasons) <= 3


def test_an_invalid_byte_in_any_encoding_costs_its_record(tmp_path: Path) -> None:
    rows = ['{"text": "一"}', '{"text": "价格"}', '{"text": "三"}']
    for encoding, damage in (("gb18030", b"\xff"), ("utf-16-le", b"\x00\xdc"), ("utf-8", b"\xff")):
        parts = [row.encode(encoding) for row in rows]
        mark = "价".encode(encoding)
        parts[1] = parts[1].replace(mark, mark + damage)
        content = "[".encode(encoding) + ",\n".encode(encoding).join(parts) + "]".encode(encoding)
        kept, reasons = read(jsonl, tmp_path / "a.json", content, encoding=encoding)
        assert (kept, reasons) == (["一", "三"], ["invalid_utf8"]), encoding


@pytest.mark.parametrize("pattern", ['{"a":"', '{"a":[', '{"a":{"b":', "[", '{"a":1,', '{"text":"x}\n', '"', "{"])
def test_time_is_linear_in_the_length_of_invalid_text(pattern: str) -> None:
    """Quadratic time would be 10^11 / 2 steps, which do not end within the time limit of a test."""
    text = pattern * (300_000 // len(pattern))
    splitter = _Splitter(64 << 20)
    for start in range(0, len(text), 1 << 20):
        sum(1 for _ in splitter.feed(text[start : start + (1 << 20)]))
    sum(1 for _ in splitter.finish())


def test_an_array_that_is_cut_keeps_what_comes_before(tmp_path: Path) -> None:
    assert read(jsonl, tmp_path / "a.json", f'[{ONE}, {{"text": "t'.encode()) == (["one"], ["invalid_json"])
    assert read(jsonl, tmp_path / "a.json", b"[]") == ([], ["empty_file"])


def test_records_do_not_depend_on_where_the_text_is_cut() -> None:
    text = '[{"a": "x\\\\", "b": "\\"}"}, {"c": ["]"]}]'
    for size in range(1, len(text)):
        splitter = _Splitter(100)
        values = [v for i in range(0, len(text), size) for v, _ in splitter.feed(text[i : i + size])]
        assert values + [v for v, _ in splitter.finish()] == ['{"a": "x\\\\", "b": "\\"}"}', '{"c": ["]"]}']


def test_an_array_of_one_line_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """24 MB in one line; max_line_bytes of 1 MB bounds a record, not the file."""
    (tmp_path / "a.json").write_text("[" + ",".join([json.dumps({"text": "word " * 2000})] * 2400) + "]")
    tracemalloc.start()
    params = jsonl.Params(paths=str(tmp_path), max_line_bytes=1 << 20)
    assert sum(1 for _ in jsonl.read(params)) == 2400
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


def test_numbers_as_python_writes_them(tmp_path: Path) -> None:
    lines = b'{"text": "a", "id": NaN}\n{"text": "b", "id": -Infinity}\n{"text": "c", "id": 123456789012345678901}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    rows = list(jsonl.read(jsonl.Params(paths=str(tmp_path))))
    assert outcome(rows) == (["a", "b", "c"], [])
    assert [getattr(row, "metadata")["id"] for row in rows] == [None, None, 123456789012345678901]  # noqa: B009


def test_the_column_of_a_document_is_found_in_any_case(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"Text": "one"}\n{" TEXT ": "two"}\n{"Text": "a", "TEXT": "b"}\n')
    kept, reasons = outcome(list(jsonl.read(jsonl.Params(paths=str(tmp_path)))))
    assert (kept, reasons) == (["one", "two"], ["missing_field"])


def test_a_list_of_records_in_an_object_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"version": 1, "data": [{"text": "a"}]}')
    [record] = jsonl.read(jsonl.Params(paths=str(tmp_path)))
    assert isinstance(record, Quarantined)
    assert "set `records: data`" in record.detail
