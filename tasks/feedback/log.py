"""Votes, rankings and thumbs: one JSON line per action, on disk before the client is answered, and never changed.

Every action has an id that the page chose, so that a click that is sent twice, or again after the server was killed,
gives one record. One file per day, in UTC: data/raw/feedback/2026-11-30.jsonl.
"""

import datetime
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import BadParams
from tasks.files import locked, sync_folder

FOLDER = Path("raw/feedback")  # below the data folder
SCHEMA_VERSION = 1


class FeedbackLog:
    """Appends records. Opening it reads the ids that are on disk, and ends a line that a kill has left incomplete.

    Raises BadParams for a folder that cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._ids: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.glob("*.jsonl")):
                for record in read(file):
                    self._ids |= {str(record.get("id")), *map(str, record.get("erased", ()))}
                end_last_line(file)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise BadParams(
                f"votes cannot be written to {folder}: {error}. Give write access to it, or use --data."
            ) from error

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._ids

    def append(self, record: Mapping[str, Any]) -> bool:
        """Write a record with a new id, and return True when it is on disk; False if its id is known."""
        now = datetime.datetime.now(datetime.UTC)
        body = {"schema_version": SCHEMA_VERSION, "time": now.isoformat(timespec="milliseconds"), **record}
        line = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        with self._lock, locked(self._folder):
            if body["id"] in self._ids:
                return False
            path = self._folder / f"{now:%Y-%m-%d}.jsonl"
            is_new = not path.exists()
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(file).st_size
                try:
                    if os.write(file, line) != len(line):
                        raise OSError("only a part of the record was written")
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, size)  # a full disk: no part of a record stays that was never acknowledged
                    raise
            finally:
                os.close(file)
            if is_new:
                sync_folder(self._folder)
            self._ids.add(str(body["id"]))
        return True

    def records(self) -> Iterator[dict[str, Any]]:
        """All records, in the order in which they were written."""
        for file in sorted(self._folder.glob("*.jsonl")):
            yield from read(file)


def erase(folder: Path, is_erased: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Remove the records for which `is_erased` is true from the files of a folder; return their ids.

    The text of a record leaves the disk. Its id stays, in a record of the action `erasure`, so that a page that sends
    the action again does not write it again. Lines that are no complete record are kept.
    """
    if not folder.is_dir():
        return []
    ids: list[str] = []
    with locked(folder):  # no other process appends meanwhile
        for file in sorted(folder.glob("*.jsonl")):
            lines = file.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not _matches(line, is_erased, ids)]
            if len(kept) < len(lines):
                time = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
                own_ids = ids[len(kept) - len(lines) :]
                note = {"schema_version": SCHEMA_VERSION, "time": time, "id": f"erasure-{own_ids[0]}-{len(own_ids)}",
                        "action": "erasure", "annotator": "operator", "erased": own_ids}  # fmt: skip
                _replace(file, b"".join([*kept, json.dumps(note).encode() + b"\n"]))
    return ids


def _replace(file: Path, content: bytes) -> None:
    """Write a file under a temporary name that only this user can read, and rename it when it is on disk."""
    temporary = file.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    sync_folder(file.parent)


def _matches(line: bytes, is_erased: Callable[[Mapping[str, Any]], bool], ids: list[str]) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    if not isinstance(record, dict) or record.get("action") == "erasure" or not is_erased(record):
        return False
    ids.append(str(record.get("id")))
    return True


def read(file: Path) -> Iterator[dict[str, Any]]:
    """The records of a file; lines that are no complete record are left out."""
    with open(file, "rb") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record


def end_last_line(file: Path) -> None:
    """Append a line end to a file whose last line has none: a record that was cut off becomes a line of its own."""
    with open(file, "rb+") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.write(b"\n")
            stream.flush()
            os.fsync(stream.fileno())
