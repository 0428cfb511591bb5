"""JSON files of every layout: the records of each, and the cost of an invalid one."""

import json
import tracemalloc
from pathlib import Path

import pytest

from tasks.ingestion.formats.json_values import _Splitter
from tasks.ingestion.sources import jsonl
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


def test_an_array_that_is_cut_keeps_what_comes_before(tmp_path: Path) -> None:
    assert read(jsonl, tmp_path / "a.json", f'[{ONE}, {{"text": "t'.encode()) == (["one"], ["invalid_json"])
    assert read(jsonl, tmp_path / "a.json", b"[]") == ([], ["empty_file"])


def test_records_do_not_depend_on_where_the_text_is_cut() -> None:
    text = '[{"a": "x\\\\", "b": "\\"}"}, {"c": ["]"]}]'
    for size in range(1, len(text)):
        splitter = _Splitter(100)
        values = [v for i in range(0, len(text), size) for v, _ in splitter.feed(text[i : i + size])]
        assert [*values, *splitter.finish()] == ['{"a": "x\\\\", "b": "\\"}"}', '{"c": ["]"]}']


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
