"""The engine: run one function on many keys, in processes of this machine or of a Ray cluster, with files as results.

Only the manifest of a stage decides what is complete. A task writes its files into a folder of its own, which is
flushed, hashed and renamed; then the driver lists it in the manifest. So a task that runs twice is listed once, nothing
that is listed is repeated after the driver was killed, and whatever is not listed is deleted.
"""

import hashlib
import importlib
import json
import os
import re
import secrets
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import xxhash

from tasks.errors import BadInput
from tasks.files import rerun_advice, sync_folder, write_json

JOURNAL = "manifest.jsonl"  # one line per finished part; the driver alone appends to it
MANIFEST = "manifest.json"  # the same as one file, for readers; it is written when the stage has ended
DISCARDED = "discarded"  # an empty file in the folder of a part whose files no later stage reads
KEY = re.compile(r"[\w-]{1,100}")
MAX_ATTEMPTS = 4  # of a task whose worker ends without an outcome, or that takes too long
TASK_SECONDS = 6 * 3600.0  # a task that takes longer counts as hanging; those of curation take minutes

Function = Callable[[Path, Any], Mapping[str, Any]]
"""A top-level function from (folder for its files, input) to a small result. Input and result are values of JSON."""

Results = Callable[[str, Mapping[str, Any]], object]


def ignore_result(_key: str, _result: Mapping[str, Any]) -> None:
    """Do nothing with the result of a key."""


@dataclass(frozen=True, slots=True)
class Task:
    """One key of a stage as a worker receives it. function: "module:name"; input: a value of JSON.

    wants_gpu: whether it runs on a GPU of its own, on a cluster that has any; on one machine, it sees all GPUs.
    """

    folder: str
    key: str
    function: str
    input: Any
    wants_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """What one task has published. files: name -> [bytes, xxh3_128]; name: the folder below that of the stage."""

    key: str
    name: str
    input: str
    result: dict[str, Any]
    files: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Crash:
    """A key whose task ended its worker, or did not end in time, in every attempt."""

    key: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """What a stage has published. quarantined: key -> why its task failed; the others are complete without it.

    num_run: how many parts this run has made; the others were complete before it.
    """

    folder: Path
    parts: dict[str, Part]
    quarantined: dict[str, str] = field(default_factory=dict)
    num_run: int = 0

    def path(self, key: str, name: str) -> Path:
        """Return the path of one file of one key."""
        return self.folder / self.parts[key].name / name

    def paths(self, name: str) -> list[str]:
        """Return the paths of the files `name` of all keys, in the order of the keys."""
        return [str(self.path(key, name)) for key in self.parts]

    def total(self, name: str) -> int:
        """Return the sum of one number over the results of all keys."""
        return int(sum(part.result[name] for part in self.parts.values()))


class Engine(ABC):
    """Runs stages, each of which is a folder below `folder`. `LocalEngine` and `RayEngine` say where tasks run."""

    def __init__(self, folder: Path, task_seconds: float | None = TASK_SECONDS) -> None:
        self.folder = folder.absolute()  # the workers of a cluster have other working folders
        self.task_seconds = task_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the workers. The engine can be used again, with new ones."""

    def run(
        self,
        stage: str,
        keys: Sequence[str],
        function: Function,
        inputs: Mapping[str, Any],
        on_result: Results = ignore_result,
        wants_gpu: bool = False,
    ) -> Manifest:
        """Call function(folder, inputs[key]) for each key that is not complete. Return what is complete afterwards.

        wants_gpu: whether each task uses a GPU where the engine has any.
        A key whose worker ends, or takes longer than `task_seconds`, in each of MAX_ATTEMPTS attempts is quarantined.
        Raises BadInput for keys that occur twice or are no file names, and whatever `function` raises.
        """
        folder = self.folder / stage
        if len(set(keys)) < len(keys) or not all(KEY.fullmatch(key) for key in keys):
            raise BadInput(f"{folder}: expected different keys of letters, digits, - and _, got {', '.join(keys[:5])}")
        name = f"{_module(function)}:{function.__qualname__}"
        folder.mkdir(parents=True, exist_ok=True)
        digests = {key: input_digest(name, inputs[key]) for key in keys}
        listed = {key: part for key, part in _listed(folder).items() if digests.get(key) == part.input}
        _rewrite_journal(folder, listed.values())
        _delete_unlisted(folder, listed.values())
        for key, part in listed.items():
            on_result(key, part.result)
        pending = [Task(str(folder), key, name, inputs[key], wants_gpu) for key in keys if key not in listed]
        quarantined = dict[str, str]()
        try:
            for outcome in self._published(folder, pending):
                if isinstance(outcome, Crash):
                    quarantined[outcome.key] = outcome.reason
                else:
                    listed[outcome.key] = outcome
                    on_result(outcome.key, outcome.result)
        finally:
            parts = {key: listed[key] for key in keys if key in listed}
            _delete_unlisted(folder, parts.values())
        body = {"parts": {key: asdict(part) for key, part in parts.items()}, "quarantined": quarantined}
        write_json(folder / MANIFEST, body)
        return Manifest(folder, parts, quarantined, len(pending) - len(quarantined))

    def _published(self, folder: Path, tasks: list[Task]) -> Iterator[Part | Crash]:
        """Yield the outcome of each task after the journal lists it."""
        if not tasks:
            return
        with open(folder / JOURNAL, "a", encoding="utf-8") as journal, closing(self._outcomes(tasks)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Part):
                    journal.write(json.dumps(asdict(outcome)) + "\n")
                    journal.flush()
                    os.fsync(journal.fileno())
                yield outcome

    @abstractmethod
    def _outcomes(self, tasks: list[Task]) -> Generator[Part | Crash, None, None]:
        """Run the tasks and yield what comes of each, once, in any order. No task runs any longer when it ends."""


def execute(task: Task) -> Part:
    """Run one task in this process and publish its files. Raises whatever its function raises."""
    folder, attempt = Path(task.folder), secrets.token_hex(4)
    name = f"part-{task.key}.{attempt}"
    temporary = folder / f"{name}.tmp"
    temporary.mkdir(parents=True)
    try:
        result = dict(_function(task.function)(temporary, task.input))
        files = {path.name: _flush_and_hash(path) for path in sorted(temporary.iterdir())}
        sync_folder(temporary)
        temporary.rename(folder / name)
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Part(task.key, name, input_digest(task.function, task.input), result, files)


def complete(stage: Manifest, consequence: str, advice: str) -> Manifest:
    """Return the stage. Raises BadInput if a key is quarantined, where a stage needs them all."""
    if stage.quarantined:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in stage.quarantined.items())
        raise BadInput(
            f"{stage.folder}: {consequence}, because parts of the work failed in every attempt ({reasons}). {advice}"
        )
    return stage


def check_part(manifest: Manifest, key: str) -> None:
    """Raise BadInput if the files of a key are not those that its task has written."""
    part = manifest.parts[key]
    for name, (num_bytes, checksum) in part.files.items():
        path = manifest.path(key, name)
        if not path.is_file() or path.stat().st_size != num_bytes or file_checksum(path) != checksum:
            raise BadInput(f"{path} is damaged: it differs from what was written. {rerun_advice(path)}")


def input_digest(function: str, value: Any) -> str:
    """Return the digest that decides whether a part of an earlier run is what a task would make now."""
    return hashlib.sha256(json.dumps([function, value], sort_keys=True).encode()).hexdigest()[:32]


def file_checksum(path: Path) -> str:
    """Return the xxh3_128 of the bytes of a file; it detects damage, and is ten times as fast as sha256."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _flush_and_hash(path: Path) -> list[Any]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return [path.stat().st_size, file_checksum(path)]


def _module(function: Function) -> str:
    """Return the module from which workers import a function, also where it is the one that was started."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if function.__module__ == "__main__" and spec is not None else function.__module__


def _function(name: str) -> Function:
    module, attribute = name.split(":")
    function: Function = getattr(importlib.import_module(module), attribute)
    return function


def _listed(folder: Path) -> dict[str, Part]:
    """Return the parts that the journal lists and whose files exist. A last line that is cut off is no part."""
    parts = dict[str, Part]()
    path = folder / JOURNAL
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    for line in lines:
        try:
            part = Part(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if _has_files(folder / part.name, part.files):
            parts[part.key] = part
    return parts


def _has_files(folder: Path, files: Mapping[str, list[Any]]) -> bool:
    """Whether the folder of a part has its files, in their sizes, or its files were discarded."""
    if (folder / DISCARDED).exists():
        return True
    paths = {folder / name: num_bytes for name, (num_bytes, _) in files.items()}
    return folder.is_dir() and all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _rewrite_journal(folder: Path, parts: Iterable[Part]) -> None:
    """Leave only `parts` in the journal, so that a line that was cut off does not join the next one."""
    temporary = folder / f"{JOURNAL}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(part)) + "\n" for part in parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / JOURNAL)
    (folder / MANIFEST).unlink(missing_ok=True)


def _delete_unlisted(folder: Path, parts: Iterable[Part]) -> None:
    names = {part.name for part in parts}
    for path in folder.glob("part-*"):
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)


def discard_files(manifest: Manifest) -> None:
    """Delete the files of a stage that no later one reads. Its parts stay listed, so that a resumed run skips them."""
    for part in manifest.parts.values():
        (manifest.folder / part.name / DISCARDED).touch()
        for name in part.files:
            (manifest.folder / part.name / name).unlink(missing_ok=True)
