"""A log that was changed is refused; a line that a kill cut off never happened."""

import json
from pathlib import Path

import pytest

from tasks.errors import BadInput
from tasks.promotion import log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log with three lines."""
    entries: list[log.Entry] = []
    for number in range(3):
        log.append(tmp_path, entries, {"event": "register", "version": number})
    return tmp_path


def change(folder: Path, edit: list[tuple[int, bytes | None]]) -> None:
    lines: list[bytes | None] = [*(folder / log.LOG).read_bytes().splitlines(keepends=True)]
    for index, line in edit:
        lines[index] = line
    (folder / log.LOG).write_bytes(b"".join(line for line in lines if line is not None))


def test_lines_are_chained(folder: Path) -> None:
    entries = log.read(folder)
    assert [entry["version"] for entry in entries] == [0, 1, 2]
    assert entries[0]["previous"] == log.START
    assert entries[2]["previous"] == entries[1]["hash"] == log.hash_of(entries[1])
    assert entries[1]["who"]


def test_changed_removed_and_exchanged_lines_are_refused(folder: Path) -> None:
    lines = (folder / log.LOG).read_bytes().splitlines(keepends=True)
    body = json.loads(lines[1]) | {"version": 7}
    rehashed = body | {"hash": log.hash_of(body)}
    edits: list[tuple[list[tuple[int, bytes | None]], str]] = [
        ([(1, json.dumps(body).encode() + b"\n")], "line 2: its content"),
        ([(1, json.dumps(rehashed).encode() + b"\n")], "line 3: it does not follow"),
        ([(1, None)], "line 2: it does not follow"),
        ([(0, lines[1]), (1, lines[0])], "line 1: it does not follow"),
        ([(2, None)], "states 3 lines"),
        ([(1, b"{\n")], "line 2: it is not JSON"),
    ]
    for edit, problem in edits:
        change(folder, edit)
        with pytest.raises(BadInput, match=problem):
            log.read(folder)
        (folder / log.LOG).write_bytes(b"".join(lines))
    assert len(log.read(folder)) == 3


def test_a_line_that_was_cut_off_is_replaced_by_the_next_one(folder: Path) -> None:
    with open(folder / log.LOG, "ab") as file:
        file.write(b'{"event": "promote", "vers')
    entries = log.read(folder)
    assert len(entries) == 3
    log.append(folder, entries, {"event": "promote", "version": 2})
    assert [entry["event"] for entry in log.read(folder)] == ["register"] * 3 + ["promote"]
