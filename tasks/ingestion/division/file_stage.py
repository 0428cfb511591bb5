"""Reading the files of a source as a stage of the engine, whose tasks read small files, or ranges of large ones."""

import importlib
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasks.engine import settings
from tasks.engine.engine import Engine, Function, Manifest, check_part, complete
from tasks.files import read_json, write_json
from tasks.ingestion import opening
from tasks.ingestion.division import record_files
from tasks.ingestion.files import containers
from tasks.ingestion.opening import InputFile
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.records import Record
from tasks.progress import Progress
from tasks.tables import Quarantined

TASK_BYTES = 128 << 20  # of files, as they are on disk; a task reads at least one file, or one line or row group
TASK_FILES = 1000
FOLDER = "ingestion"
RECORDS, COUNTS = "records.arrow", "counts.json"

Described = dict[str, Any]
"""One file as a value of JSON: its name and place, and a version that is another one after a change."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one task reads: files that follow one another, or a range of one, as `divide` of its source returns it.

    number: of the first file among those of the source. index: of the range among those of the file.
    """

    number: int
    files: list[Described]
    index: int = 0
    range: Any = None

    @property
    def key(self) -> str:
        """The key of the task."""
        return f"{self.number:07d}-{self.index:05d}"

    def split(self) -> "list[Unit]":
        """Return one unit for each file."""
        if len(self.files) == 1:
            return [self]
        return [Unit(number, [file]) for number, file in enumerate(self.files, self.number)]


def read_records(name: str, module: Any, params: Any, counts: ReadCounts, run: Path) -> Iterator[Record]:
    """Return the records of the source `name`, read by `module` in this process, or on the cluster.

    run: the folder for intermediate files, which `delete_parts` deletes.
    """
    if settings.current().engine == "local" or not hasattr(module, "read_file"):
        records: Iterator[Record] = module.read(params, counts)
        return records
    return _read_on_cluster(name, module, params, counts, run)


def _read_on_cluster(name: str, module: Any, params: Any, counts: ReadCounts, run: Path) -> Iterator[Record]:
    with settings.make_engine(run / FOLDER, 0) as engine:
        yield from read_on(engine, name, module, params, counts)


def delete_parts(run: Path) -> None:
    """Delete what the tasks have written, after the tables are complete: until then a run that is killed resumes."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def read_on(engine: Engine, name: str, module: Any, params: Any, counts: ReadCounts) -> Iterator[Record]:
    """Yield what `module.read` yields, in the same order, and count the same in `counts`.

    Files that only this process can open are read here. Raises BadInput if a task has ended its worker in every
    attempt, with the name of its file, because its records would be lost.
    """
    files = opening.find_files(params.paths, _suffixes(module, params), counts)
    described = [_describe(file) for file in files]
    shared = {"module": module.__name__, "params": params.model_dump(mode="json", exclude={"paths"})}
    units = _divide(described, _find_ranges(engine, name, module, described, shared))
    stage = _run(engine, name, units, shared)
    if stage.quarantined:  # the file that ends its worker is found among those of its task
        units = [one for unit in units for one in (unit.split() if unit.key in stage.quarantined else [unit])]
        stage = _run(engine, name, units, shared)
    lost = ", ".join(dict.fromkeys(unit.files[0]["name"] for unit in units if unit.key in stage.quarantined))
    complete(stage, f"the records of {lost} would be lost", "Give the workers more memory, and run it again.")
    keys = defaultdict[int, list[str]](list)
    for unit in units:
        keys[unit.number].append(unit.key)
    for number, file in enumerate(files):
        if file.place is None:
            yield from _read_files([file], module, params, counts)
        for key in keys[number]:
            check_part(stage, key)
            counts.merge(read_json(stage.path(key, COUNTS)))
            yield from record_files.read(stage.path(key, RECORDS))


def read_part(part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Read the files or the range of one task; write their records and what was counted."""
    module, params, files = _load(task)
    counts = ReadCounts()
    if task["range"] is None:
        records = _read_files(files, module, params, counts)
    else:
        counts.files.add(files[0].name)
        records = module.read_range(replace(files[0], counts=counts), params, task["range"])
    num_records = record_files.write(part / RECORDS, records)
    write_json(part / COUNTS, counts.of_files())
    return {"records": num_records}


def divide_file(_part: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ranges of one file."""
    module, params, files = _load(task)
    return {"ranges": module.divide(files[0], params, task["max_bytes"])}


def _load(task: Mapping[str, Any]) -> tuple[Any, Any, list[InputFile]]:
    """Return the module of the source, its params and the files of a task."""
    module = importlib.import_module(task["module"])
    params = module.Params(**task["params"], paths=[file["name"] for file in task["files"]])
    files = [opening.at_place(file["name"], tuple(file["place"]), file["is_named"]) for file in task["files"]]
    return module, params, files


def _read_files(files: Sequence[InputFile], module: Any, params: Any, counts: ReadCounts) -> Iterator[Record]:
    for found in files:
        for file in opening.read_found(found, params, _suffixes(module, params), counts):
            yield from [file] if isinstance(file, Quarantined) else module.read_file(file, params)


def _suffixes(module: Any, params: Any) -> tuple[str, ...]:
    suffixes: tuple[str, ...] = module.suffixes(params) if hasattr(module, "suffixes") else module.SUFFIXES
    return suffixes


def _describe(file: InputFile) -> Described | None:
    """Return a file as a task receives it; None if only this process can open it."""
    if file.place is None:
        return None
    address, path = file.place
    # Nothing says whether a file at an address has changed, so that a run that resumes reads it again.
    status = None if address else Path(path).stat()
    version = secrets.token_hex(8) if status is None else [status.st_size, status.st_mtime_ns]
    return {"name": file.name, "place": file.place, "is_named": file.is_named, "version": version}


def _find_ranges(
    engine: Engine, name: str, module: Any, files: Sequence[Described | None], shared: Mapping[str, Any]
) -> dict[int, list[Any]]:
    """Return the ranges of the large local files that are divided, by their numbers.

    A file that ends its worker is not among them; so the task that reads it as a whole names it.
    """
    tasks = {
        f"{number:07d}": {**shared, "files": [file], "max_bytes": TASK_BYTES}
        for number, file in enumerate(files)
        if file is not None and _num_bytes(file) > TASK_BYTES and not containers.is_archive(file["name"])
    }
    if not tasks or not hasattr(module, "divide"):
        return {}
    stage = _run_tasks(engine, "divide", name, divide_file, tasks)
    return {int(key): part.result["ranges"] for key, part in stage.parts.items() if part.result["ranges"]}


def _num_bytes(file: Described) -> int:
    """Return the size of a local file; that of one at an address is not known."""
    return TASK_BYTES if file["place"][0] else int(file["version"][0])


def _divide(files: Sequence[Described | None], ranges: Mapping[int, Sequence[Any]]) -> list[Unit]:
    """Return units of at most TASK_BYTES, of one file or of one of its ranges.

    files: None is a file that is read here, and ends a unit. ranges: of the files that are divided, by their numbers.
    """
    units, room = list[Unit](), -1
    for number, file in enumerate(files):
        if file is None or number in ranges:
            units += [Unit(number, [file], index, part) for index, part in enumerate(ranges.get(number, ())) if file]
            room = -1
            continue
        size = _num_bytes(file)
        if size <= room and len(units[-1].files) < TASK_FILES:
            units[-1].files.append(file)
        else:
            units.append(Unit(number, [file]))
            room = TASK_BYTES
        room = max(0, room - size)
    return units


def _run(engine: Engine, name: str, units: Sequence[Unit], shared: Mapping[str, Any]) -> Manifest:
    tasks = {unit.key: {**shared, "files": unit.files, "range": unit.range} for unit in units}
    return _run_tasks(engine, "read", name, read_part, tasks)


def _run_tasks(engine: Engine, verb: str, name: str, function: Function, tasks: Mapping[str, Any]) -> Manifest:
    with Progress(f"{verb} {name}", len(tasks), "tasks") as progress:
        stage = f"{verb}-{quote(name, safe='')}"
        return engine.run(stage, list(tasks), function, tasks, lambda _key, _result: progress.advance())
