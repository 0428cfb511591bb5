"""The log of promotions: one JSON line for each move, chained by hashes, appended with fsync, verified when it is read.

The log is the only source of truth: which model is champion follows from its lines. A line that a kill cut off, which
has no line end, never happened. The heads file states the last line as well, so that lines cannot be removed unnoticed
from the end of the log.
"""

import getpass
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from tasks import files
from tasks.errors import BadInput
from tasks.files import read_json, sync_folder, write_json

LOG, HEAD, LOCK = "log.jsonl", "head.json", "lock"
START = "0" * 64  # what the first line states as the hash of the line before it

Entry = dict[str, Any]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let only one process change what is below `folder` while the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder / LOCK):
        yield


def read(folder: Path) -> list[Entry]:
    """The entries of the log below `folder`, the oldest first. Raises BadInput for a log that was changed."""
    path = folder / LOG
    entries: list[Entry] = []
    previous = START
    for number, line in enumerate(_complete_lines(path), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            _refuse(path, number, "it is not JSON")
        if not isinstance(entry, dict) or entry.get("previous") != previous or entry.get("number") != number:
            _refuse(path, number, "it does not follow the line before it: a line was removed, inserted or changed")
        if entry.get("hash") != hash_of(entry):
            _refuse(path, number, "its content is not the one that its hash was computed from")
        entries.append(entry)
        previous = str(entry["hash"])
    _check_head(folder, entries)
    return entries


def append(folder: Path, entries: list[Entry], body: Mapping[str, Any]) -> Entry:
    """Append a line with `body`, the time and the user to the log, of which `entries` are the present lines.

    The caller holds the lock. When this returns, the line is on the disk.
    """
    entry: Entry = {
        **body,
        "number": len(entries) + 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "who": user(),
        "previous": str(entries[-1]["hash"]) if entries else START,
    }
    entry["hash"] = hash_of(entry)
    descriptor = os.open(folder / LOG, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        _remove_partial_line(descriptor)
        text = memoryview((_canonical(entry) + "\n").encode())
        while text:
            text = text[os.write(descriptor, text) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_folder(folder)
    entries.append(entry)
    write_json(folder / HEAD, {"number": entry["number"], "hash": entry["hash"]})
    return entry


def hash_of(entry: Mapping[str, Any]) -> str:
    """The sha256 of an entry without its own hash; `previous` is part of it, which makes the chain."""
    return hashlib.sha256(_canonical({key: entry[key] for key in entry if key != "hash"}).encode()).hexdigest()


def user() -> str:
    """Who makes the move: the name of the user of this process, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"user {os.getuid()}"


def _canonical(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _complete_lines(path: Path) -> list[bytes]:
    """The lines that end with a line end; what follows the last one was cut off by a kill."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def _remove_partial_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, min(size, 1 << 20), max(0, size - (1 << 20)))
    if tail and not tail.endswith(b"\n"):
        os.ftruncate(descriptor, size - len(tail) + tail.rfind(b"\n") + 1)


def _check_head(folder: Path, entries: list[Entry]) -> None:
    if not (folder / HEAD).is_file():
        return
    head = read_json(folder / HEAD)
    number = int(head["number"])
    if number > len(entries) or entries[number - 1]["hash"] != head["hash"]:
        raise BadInput(
            f"{folder / LOG} was changed: {folder / HEAD} states {number} lines that end with the hash "
            f"{head['hash'][:12]}, but the log has {len(entries)} others. Restore the log from a backup, or compare "
            "it with the tags of the model in MLflow. Nothing is promoted until then."
        )


def _refuse(path: Path, number: int, problem: str) -> NoReturn:
    raise BadInput(
        f"{path}, line {number}: {problem}. The log of promotions was changed or damaged. Restore it from a backup, or "
        "compare it with the tags of the model in MLflow. Nothing is promoted until then."
    )
