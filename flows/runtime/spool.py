"""The spool: one folder per stage run with a record of the run and copies of its small files, to be sent to MLflow.

Nothing here talks to a server. flows/runtime/tracking.py reads the folders, sends them to MLflow and removes them; if
it cannot, they wait. A record that cannot be written, because the disk is full, fails its stage: otherwise its results
would be missing in MLflow without notice. Only this user can read the spool.
"""

import contextlib
import csv
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flows.runtime.environment import RUN, home
from tasks.addresses import redact
from tasks.files import SCHEMA_VERSION, write_json
from tasks.reports import TIMINGS

TOKENS = "data/tokens"  # whose version is the data of a pipeline
RECORD = "record.json"
SESSION = "session-"  # the names of the folders of sessions begin with it
SYSTEM = "system.csv"
COPIED = "files"
ATTACHED = "attached"  # files of a session
DVC = "dvc"
SAMPLE_SECONDS = 2.0
MAX_MODEL_BYTES = 64 << 20  # larger weights are not copied; their DVC hash points to them
BYTES_PER_MIB = 1 << 20
GPU_QUERY = [
    "nvidia-smi",
    "--query-gpu=index,name,utilization.gpu,memory.used,power.draw",
    "--format=csv,noheader,nounits",
]


def folder() -> Path:
    """Return the folder of the spool."""
    return home() / RUN / "spool"


@dataclass(frozen=True)
class Session:
    """What several stage runs have in common: one call of the pipeline, or of `dvc repro`.

    A session without a name contains a single stage run.
    """

    name: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    start: int = field(default_factory=lambda: now())
    pid: int = 0  # of the `dvc` command that contains this process

    @staticmethod
    def around_this_process() -> "Session":
        """Return the session of the `dvc` command that started this process, or a session of its own."""
        if "DVC_STAGE" in os.environ:
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process().parents():
                    if any(Path(part).name == DVC for part in process.cmdline()[:3]):
                        start = int(process.create_time() * 1000)
                        return Session(DVC, f"{DVC}-{process.pid}-{start}", start, process.pid)
        return Session()

    @contextmanager
    def closing(
        self, tags: Callable[[], Mapping[str, str]], results: Callable[[], Mapping[str, Any]] = dict
    ) -> Iterator[None]:
        """Record that the session runs, and at the end of the block how it ended.

        `tags` is called only if it ended well. `results`: title and metrics of the session, as far as there are any.
        """
        self._write({"status": "running"})
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(OSError):  # the first error is the one to report
                self._write({"status": _status(error), "end": now(), **results()})
            raise
        self._write({"status": "finished", "end": now(), "tags": dict(tags()), **results()})

    @property
    def folder(self) -> Path:
        """The folder of the record of this session."""
        return folder() / f"{SESSION}{self.start}-{self.id}"

    def attach(self, path: Path) -> None:
        """Let MLflow show a file with the run of this session, whatever happens to the file later."""
        (self.folder / ATTACHED).mkdir(exist_ok=True)
        shutil.copyfile(path, self.folder / ATTACHED / path.name)

    def _write(self, body: Mapping[str, Any]) -> None:
        own = {"kind": "session", "session": self._body(), "tags": {}, "start": self.start, **process_identity()}
        _write_private(self.folder, {**own, **body})

    def record_restored(self, stage: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Record that DVC restored the results of `stage` from an earlier run with the same input."""
        record = self.new_record(stage, params, tags, Path("restored"))
        record.copy_results()
        record.write("restored")

    @contextmanager
    def recording(
        self, stage: str, params: Mapping[str, Any], tags: Mapping[str, str], steps: Path
    ) -> Iterator["Record"]:
        """Record the run of `stage` in the block: params, tags, use of the machine, how it ended, and its results.

        `steps` is the CSV file that grows while the stage runs. After the block, the record still says "running": the
        run is finished when its outputs are committed, and `Record.write` then says so.
        """
        record = self.new_record(stage, params, tags, steps)
        record.write("running")
        sampler = Sampler(record.folder / SYSTEM)
        sampler.start()
        try:
            yield record
            sampler.stop()
            record.peak_bytes = sampler.peak_bytes
            record.copy_results()
            record.write("running")
        except BaseException as error:
            sampler.stop()
            record.fail(error)
            raise

    def new_record(self, stage: str, params: Mapping[str, Any], tags: Mapping[str, str], steps: Path) -> "Record":
        """Return a record of a run of `stage` that starts now; nothing is written yet."""
        run = {"start": now(), **process_identity(), "steps": str(steps.absolute())}
        inputs = {"session": self._body(), "params": dict(params), "tags": dict(tags)}
        return Record(stage, {"kind": "stage", "stage": stage, **run, **inputs})

    def _body(self) -> dict[str, Any]:
        return {"name": self.name, "id": self.id, "start": self.start, "is_dvc": self.name == DVC}


@dataclass
class Record:
    """The record of one stage run, in its folder of the spool."""

    stage: str
    body: dict[str, Any]
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self.folder = folder() / f"{self.body['start']}-{self.stage}-{uuid.uuid4().hex[:8]}"
        self.body["id"] = self.folder.name

    def write(self, status: str) -> None:
        """Write the record with this status. Raises OSError if the disk is full."""
        if status != "running" and "end" not in self.body:
            self.body["end"] = now()
        _write_private(self.folder, {**self.body, "status": status})

    def fail(self, error: BaseException) -> None:
        """Write that the run ended with `error`, as far as the disk has space for it."""
        self.body["tags"]["error"] = redact(f"{type(error).__name__}: {error}")[:500]
        with contextlib.suppress(OSError):
            self.write(_status(error))

    def copy_results(self, data: Path = Path("data")) -> None:
        """Copy report, timings and (small) model, because the next run may replace them before they are sent.

        Raises OSError if the disk is full.
        """
        target, model = self.folder / COPIED, data / "models" / self.stage
        self.body["end"] = now()
        files = {data / "reports" / f"{self.stage}.json": target / "report.json"}
        files[TIMINGS / f"{self.stage}.json"] = target / "timings.json"
        for source, place in ((data / "reports" / self.stage, target / "report"), (model, target / "model")):
            files |= {path: place / path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()}
        for path, copy in files.items():
            is_small = path.is_file() and (path.stat().st_size <= MAX_MODEL_BYTES or not path.is_relative_to(model))
            if is_small:
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                copy.chmod(0o600)


class Sampler:
    """A thread that writes the memory and CPU use of process and machine to a CSV file, every SAMPLE_SECONDS."""

    def __init__(self, path: Path) -> None:
        self.path, self.peak_bytes = path, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._has_gpu = shutil.which("nvidia-smi") is not None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread after its current sample."""
        self._stopping.set()
        self._thread.join(SAMPLE_SECONDS)

    def _run(self) -> None:
        process = psutil.Process()
        psutil.cpu_percent()  # the first call only starts the measurement
        with contextlib.suppress(OSError, psutil.Error), open(self.path, "w", encoding="utf-8", newline="") as file:
            self.path.chmod(0o600)
            writer = csv.writer(file)
            while True:
                self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
                writer.writerows([now(), key, value] for key, value in self._sample(process).items())
                file.flush()
                if self._stopping.wait(SAMPLE_SECONDS):
                    return

    def _sample(self, process: psutil.Process) -> dict[str, float]:
        """Return a sample under the names of MLflow's own system metrics, so that MLflow's page shows them."""
        values = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": psutil.virtual_memory().used / 1e6,
            "system/process_memory_usage_megabytes": process.memory_info().rss / 1e6,
        }
        for index, _, utilization, memory, power in gpus() if self._has_gpu else []:
            for name, value in (("utilization_percentage", utilization), ("memory_usage_megabytes", memory)):
                values[f"system/gpu_{index}_{name}"] = value
            values[f"system/gpu_{index}_power_usage_watts"] = power
        return values


def gpus() -> list[tuple[int, str, float, float, float]]:
    """Return (index, name, utilization in %, memory in MB, power in W) of each GPU; empty without a driver."""
    try:
        output = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in output.splitlines()]
    return [
        (int(index), name, _number(utilization), _number(mib) * BYTES_PER_MIB / 1e6, _number(watts))
        for index, name, utilization, mib, watts in rows
    ]


def _write_private(record_folder: Path, body: Mapping[str, Any]) -> None:
    folder().mkdir(parents=True, exist_ok=True, mode=0o700)
    record_folder.mkdir(exist_ok=True, mode=0o700)
    write_json(record_folder / RECORD, body)
    (record_folder / RECORD).chmod(0o600)


def process_identity() -> dict[str, Any]:
    """Return id and time of start of this process: the system reuses ids, and the time tells the processes apart."""
    return {"pid": os.getpid(), "created": psutil.Process().create_time()}


def is_alive(record: Mapping[str, Any]) -> bool:
    """Whether the process of a record still runs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(record["pid"])
        is_same = "created" not in record or abs(process.create_time() - record["created"]) < 1
        return is_same and process.status() != psutil.STATUS_ZOMBIE
    return False


def last_change(record_folder: Path) -> int:
    """Return when a record was last written, in milliseconds since 1970: until then, its process lived for certain."""
    files = [path.stat().st_mtime for path in record_folder.iterdir() if path.name != "lock"]
    return int(1000 * max(files, default=0.0))


def minute(milliseconds: int) -> str:
    """Return a time as text that sorts: 2026-11-29 21:05, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(milliseconds / 1000))


def _status(error: BaseException) -> str:
    return "failed" if isinstance(error, Exception) else "interrupted"


def _number(cell: str) -> float:
    """Parse a cell of nvidia-smi; 0 for values that the GPU does not report ("[N/A]")."""
    return float(cell) if cell.replace(".", "", 1).isdigit() else 0.0


def now() -> int:
    """Return the time in milliseconds since 1970, MLflow's unit."""
    return int(time.time() * 1000)


def numbers(body: Any, path: str = "") -> dict[str, float]:
    """Return the numbers of nested JSON by path.

    The value of a score {value, low, high, n} has the path of the score itself, its bounds have paths below it.
    """
    if isinstance(body, Mapping):
        parts = [
            numbers(part, f"{path}/{key}" if path and key != "value" else path or key)
            for key, part in body.items()
            if key != SCHEMA_VERSION
        ]
        return {key: value for part in parts for key, value in part.items()}
    return {path: float(body)} if isinstance(body, int | float) else {}
