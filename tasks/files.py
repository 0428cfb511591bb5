"""Files that are either complete or absent, and the schema versions that they state.

A file is written under a temporary name, flushed and renamed. The manifest of a folder is written last, so that its
presence means that the folder is complete.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tasks.errors import BadInput, DamagedJson

MANIFEST = "manifest.json"
SCHEMA_VERSION = "schema_version"  # the key under which files state it; a file without it has version 0


class Schema(NamedTuple):
    """The version of a format that is written, and the oldest one that can still be read."""

    version: int
    oldest: int


# Increase `version` whenever a format changes, and `oldest` if the reader does not support the previous format anymore.
# Version 0 is the format before versions were stated; names and keys were changed at the same time.
SCHEMAS = {
    "table": Schema(2, oldest=0),  # folders of Parquet shards; before version 2, preferences were pairs only
    "tokens": Schema(2, oldest=0),  # in version 0, some counts have other names; before 2, preferences were pairs only
    "model": Schema(1, oldest=0),  # athanor.json: in version 0, some params have other names
    "deliveries": Schema(1, oldest=0),  # the index of earlier deliveries; it cannot be built again from data
    "report": Schema(1, oldest=1),  # scores and counts have other names in version 0
    "checkpoint": Schema(1, oldest=1),  # the state has other keys in version 0
    "language_model": Schema(1, oldest=1),  # a model of the filter `perplexity`; it is trained again in a minute
    "signals": Schema(1, oldest=1),  # signals are measured again, which takes seconds
}


_verified: dict[Path, tuple[tuple[int, int, int], str]] = {}  # files whose bytes this process has compared
MIN_AGE = 50_000_000  # ns; a file may change twice within one tick of the clock of its file system


def sha256(path: Path) -> str:
    """Return the hex digest of the bytes of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, digest: str | None) -> None:
    """Raise BadInput if the bytes of a file are not those with this sha256: disks flip bits without an error.

    A file is read once per process, unless it changes meanwhile. `digest`: None where an old manifest states none.
    """
    if digest is None:
        return
    status = path.stat()
    version = (status.st_ino, status.st_size, status.st_mtime_ns)
    if _verified.get(path.absolute()) != (version, digest):
        if sha256(path) != digest:
            raise BadInput(
                f"{path} is damaged: its bytes are not those that were written (their sha256 is in {MANIFEST}). "
                f"Delete it, and restore it from DVC's cache by `dvc checkout`. {rerun_advice(path)}"
            )
        if time.time_ns() - status.st_mtime_ns > MIN_AGE:
            _verified[path.absolute()] = version, digest


def write_json(path: Path, body: object) -> None:
    """Write JSON so that `path` is, at every moment, either the old file or the complete new one."""
    with _replacement(path) as file:
        json.dump(body, file, ensure_ascii=False, indent=1, sort_keys=True)


def write_json_list(path: Path, items: Iterable[object]) -> int:
    """Write the file that `write_json` writes of a list, with one item in memory at a time; return their number."""
    num_items = 0
    with _replacement(path) as file:
        for item in items:
            text = json.dumps(item, ensure_ascii=False, indent=1, sort_keys=True)
            file.write(("," if num_items else "[") + "\n " + text.replace("\n", "\n "))
            num_items += 1
        file.write("\n]" if num_items else "[]")
    return num_items


@contextmanager
def _replacement(path: Path) -> Iterator[TextIO]:
    """Open a file that becomes `path`, with a line end, when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        yield file
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())  # without it a power cut can leave an empty file under the new name
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Write the names of the files in a folder to disk, so that a new one survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, refusal: str | None = None) -> Iterator[None]:
    """Let no other process hold the lock of `path` while the block lasts. The system unlocks it after a kill.

    path: a folder, or a file, which is created. A call waits for the lock; with `refusal` it raises BadInput with this
    sentence if another process has it.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise BadInput(str(refusal)) from None
        yield
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Return the parsed content of a JSON file. Raises DamagedJson, which names the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedJson(f"{path} is damaged: it is not JSON ({error}). {rerun_advice(path)}") from error


def with_version(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return `body` with the version of its format; `kind` is a key of SCHEMAS."""
    return {**body, SCHEMA_VERSION: SCHEMAS[kind].version}


def version_problem(kind: str, body: Mapping[Any, Any], path: Path) -> str | None:
    """Return None if this version of the code can read `body`, the content of `path`, else a sentence that says why."""
    version, schema = body.get(SCHEMA_VERSION, 0), SCHEMAS[kind]
    if isinstance(version, int) and schema.oldest <= version <= schema.version:
        return None
    age = "a newer" if isinstance(version, int) and version > schema.version else "an older"
    expected = f"{schema.oldest} to {schema.version}" if schema.oldest < schema.version else f"{schema.version}"
    return (
        f"{path} was written by {age} version of Athanor: the schema version of this {kind} is {version}, but this "
        f"version of the code reads {expected}."
    )


def rerun_advice(path: Path) -> str:
    """Return a sentence that states which stage has to be run again to write `path`, a file below data/."""
    stage = _writing_stage(path)
    command = f" (dvc repro --force --single-item {stage})" if stage else ""
    return f"Run the stage {stage or 'that writes it'} again{command}."


def _writing_stage(path: Path) -> str:
    """data/models/<stage>/..., data/reports/<stage>.json, or the stage that writes one of the data folders."""
    folders = path.parent.parts
    if "models" in folders[:-1]:
        return folders[folders.index("models") + 1]
    if "reports" in folders:
        return path.stem
    stages = {"tokens": "tokenization", "curated": "curation", "dropped": "curation"}
    stages |= {"raw": "ingestion", "documents": "ingestion"}
    return next((stage for folder, stage in stages.items() if folder in folders), "")
