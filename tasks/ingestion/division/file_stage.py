"""Reading the files of a source as a stage of the engine, whose tasks write the records of some files each."""

import importlib
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tasks.engine import settings
from tasks.engine.engine import Engine, Manifest, check_part, complete
from tasks.files import read_json, write_json
from tasks.ingestion import opening
from tasks.ingestion.division import record_files
from tasks.ingestion.opening import InputFile
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.records import Record
from tasks.progress import Progress
from tasks.tables import Quarantined

TASK_BYTES = 128 << 20  # of files, as they are on disk; a task reads at least one file
TASK_FILES = 1000
FOLDER = "ingestion"
RECORDS, COUNTS = "records.arrow", "counts.json"

Described = dict[str, Any]
"""One file as a value of JSON: its name and place, and a version that is another one after a change."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What one task reads: files that follow one another. number: of the first one among the files of the source."""

    number: int
    files: list[Described]

    @property
    def key(self) -> str:
        """The key of the task."""
        return _key(self.number)

    def single_files(self) -> "list[Unit]":
        """Return one unit for each file."""
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
    units = _divide([_describe(file) for file in files])
    shared = {"module": module.__name__, "params": params.model_dump(mode="json", exclude={"paths"})}
    stage = _run(engine, name, units, shared)
    if stage.quarantined:  # the file that ends its worker is found among those of its task
        units = [one for unit in units for one in (unit.single_files() if unit.key in stage.quarantined else [unit])]
        stage = _run(engine, name, units, shared)
    lost = ", ".join(files[int(key)].name for key in stage.quarantined)
    complete(stage, f"the records of {lost} would be lost", "Give the workers more memory, and run it again.")
    for number, file in enumerate(files):
        if file.place is None:
            yield from _read_files([file], module, params, counts)
        elif (key := _key(number)) in stage.parts:
            check_part(stage, key)
            counts.merge(read_json(stage.path(key, COUNTS)))
            yield from record_files.read(stage.path(key, RECORDS))


def read_part(part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Read the files of one task; write their records and what was counted."""
    module, counts = importlib.import_module(task["module"]), ReadCounts()
    params = module.Params(**task["params"], paths=[file["name"] for file in task["files"]])
    files = [opening.at_place(file["name"], tuple(file["place"]), file["is_named"]) for file in task["files"]]
    num_records = record_files.write(part / RECORDS, _read_files(files, module, params, counts))
    write_json(part / COUNTS, counts.of_files())
    return {"records": num_records, "files": len(files)}


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


def _divide(files: Sequence[Described | None]) -> list[Unit]:
    """Return units of at most TASK_BYTES, or of one file. None, a file that is read here, ends a unit."""
    units, room = list[Unit](), -1
    for number, file in enumerate(files):
        if file is None:
            room = -1
            continue
        size = TASK_BYTES if file["place"][0] else file["version"][0]
        if size <= room and len(units[-1].files) < TASK_FILES:
            units[-1].files.append(file)
        else:
            units.append(Unit(number, [file]))
            room = TASK_BYTES
        room = max(0, room - size)
    return units


def _run(engine: Engine, name: str, units: Sequence[Unit], shared: Mapping[str, Any]) -> Manifest:
    tasks = {unit.key: {**shared, "files": unit.files} for unit in units}
    num_files = sum(len(unit.files) for unit in units)
    with Progress(f"reading of {name}", num_files, "files") as progress:
        return engine.run(
            f"read-{quote(name, safe='')}",
            list(tasks),
            read_part,
            tasks,
            lambda _, result: progress.advance(result["files"]),
        )


def _key(number: int) -> str:
    return f"{number:07d}"
