"""What a stage run leaves for those who are told afterwards: a note and copies of its small files, one folder per run.

Nothing here talks to a server. flows/runtime/tracking.py reads the folders, sends them to MLflow and removes them;
where it cannot, they wait. A note that cannot be written is not worth a stage: the work never notices.
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
from tasks.files import write_json
from tasks.reports import TIMINGS

NOTE = "note.json"
SYSTEM = "system.csv"
COPIED = "files"
DVC = "dvc"
SAMPLE_SECONDS = 2.0
MAX_MODEL_BYTES = 64 << 20  # larger weights are pointed to by their DVC hash, not copied
GPU_QUERY = [
    "nvidia-smi",
    "--query-gpu=index,name,utilization.gpu,memory.used,power.draw",
    "--format=csv,noheader,nounits",
]


def folder() -> Path:
    """Where the notes wait."""
    return home() / RUN / "spool"


@dataclass(frozen=True)
class Session:
    """What several stage runs have in common: one call of the pipeline, or of `dvc repro`. No name: a stage alone."""

    name: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    start: int = field(default_factory=lambda: now())

    @staticmethod
    def around_this_process() -> "Session":
        """The `dvc` command that started this process, or a session of its own."""
        if "DVC_STAGE" in os.environ:
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process().parents():
                    if any(Path(part).name == DVC for part in process.cmdline()[:3]):
                        start = int(process.create_time() * 1000)
                        return Session(DVC, f"{DVC}-{process.pid}-{start}", start)
        return Session()

    @contextmanager
    def closed(self, tags: Callable[[], Mapping[str, str]]) -> Iterator[None]:
        """Note at the end of the block how the session ended and, where it ended well, `tags` known only then."""
        try:
            yield
        except BaseException as error:
            self._close(_ending(error), {})
            raise
        self._close("finished", tags())

    def _close(self, status: str, tags: Mapping[str, str]) -> None:
        body = {"kind": "session", "session": self._body(), "end": now(), "status": status, "tags": dict(tags)}
        with contextlib.suppress(OSError):
            write_json(folder() / f"{now()}-{self.id}" / NOTE, body)

    def note_restored(self, stage: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Note that DVC took the results of `stage` from an earlier run with the same input."""
        note = self._note(stage, params, tags, Path("restored"))
        note.copy_results()
        note.write("restored")

    def _note(self, stage: str, params: Mapping[str, Any], tags: Mapping[str, str], steps: Path) -> "Note":
        known = {"stage": stage, "session": self._body(), "params": dict(params), "tags": dict(tags)}
        run = {"start": now(), "pid": os.getpid(), "steps": str(steps.absolute())}
        return Note(stage, {"kind": "stage", **run, **known})

    def _body(self) -> dict[str, Any]:
        return {"name": self.name, "id": self.id, "start": self.start, "is_dvcs": self.name == DVC}

    @contextmanager
    def noted(self, stage: str, params: Mapping[str, Any], tags: Mapping[str, str], steps: Path) -> Iterator["Note"]:
        """Note one run of `stage`: params, tags, what it used of the machine, how it ended and what it reported.

        `steps` is the CSV file that grows while the stage runs.
        """
        known = {"stage": stage, "session": self._body(), "params": dict(params), "tags": dict(tags)}
        note = Note(
            stage, {"kind": "stage", "start": now(), "pid": os.getpid(), "steps": str(steps.absolute()), **known}
        )
        note.write("running")
        sampler = Sampler(note.folder / SYSTEM)
        sampler.start()
        try:
            yield note
        except BaseException as error:
            sampler.stop()
            note.body["tags"]["error"] = f"{type(error).__name__}: {error}"[:500]
            note.write(_ending(error))
            raise
        sampler.stop()
        note.peak_bytes = sampler.peak_bytes
        note.copy_results()
        note.write("finished")


@dataclass
class Note:
    """One folder of the spool."""

    stage: str
    body: dict[str, Any]
    peak_bytes: int = 0

    def __post_init__(self) -> None:
        self.folder = folder() / f"{self.body['start']}-{self.stage}-{uuid.uuid4().hex[:8]}"
        self.body["id"] = self.folder.name

    def write(self, status: str) -> None:
        """Write the note as it stands."""
        end = {} if status == "running" else {"end": now()}
        with contextlib.suppress(OSError):
            write_json(self.folder / NOTE, {**self.body, **end, "status": status})

    def copy_results(self, data: Path = Path("data")) -> None:
        """Copy report, timings and (small) model: the next run may replace them before anyone was told."""
        into, model = self.folder / COPIED, data / "models" / self.stage
        with contextlib.suppress(OSError):
            into.mkdir(parents=True, exist_ok=True)
            for path in (data / "reports" / f"{self.stage}.json", TIMINGS / f"{self.stage}.json"):
                if path.is_file():
                    shutil.copyfile(path, into / ("timings.json" if path.parent == TIMINGS else "report.json"))
            if (data / "reports" / self.stage).is_dir():
                shutil.copytree(data / "reports" / self.stage, into / "report", dirs_exist_ok=True)
            for path in sorted(p for p in model.rglob("*") if p.is_file()):
                if path.stat().st_size <= MAX_MODEL_BYTES:
                    target = into / "model" / path.relative_to(model)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)


class Sampler:
    """Writes what the process and the machine use, every two seconds, from a thread beside the work."""

    def __init__(self, path: Path) -> None:
        self.path, self.peak_bytes = path, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._gpu = shutil.which("nvidia-smi") is not None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the sample at hand."""
        self._over.set()
        self._thread.join(SAMPLE_SECONDS)

    def _run(self) -> None:
        process = psutil.Process()
        psutil.cpu_percent()
        with contextlib.suppress(OSError, psutil.Error), open(self.path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            while True:
                self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)
                writer.writerows([now(), key, value] for key, value in self._sample(process).items())
                file.flush()
                if self._over.wait(SAMPLE_SECONDS):
                    return

    def _sample(self, process: psutil.Process) -> dict[str, float]:
        """Named as MLflow's own system metrics are, so that its page for them shows these."""
        values = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": psutil.virtual_memory().used / 1e6,
            "system/process_memory_usage_megabytes": process.memory_info().rss / 1e6,
        }
        for index, _, utilization, memory, power in gpus() if self._gpu else []:
            for name, value in (("utilization_percentage", utilization), ("memory_usage_megabytes", memory)):
                values[f"system/gpu_{index}_{name}"] = value
            values[f"system/gpu_{index}_power_usage_watts"] = power
        return values


def gpus() -> list[tuple[int, str, float, float, float]]:
    """(index, name, utilization in %, memory in MB, power in W) of each GPU; empty without a driver."""
    try:
        answer = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.splitlines()]
    return [
        (int(i), name, _number(used), _number(mib) * 1.048576, _number(watts)) for i, name, used, mib, watts in rows
    ]


def _ending(error: BaseException) -> str:
    return "failed" if isinstance(error, Exception) else "interrupted"


def _number(cell: str) -> float:
    return float(cell) if cell.replace(".", "", 1).isdigit() else 0.0


def now() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def numbers(body: Any, path: str = "") -> dict[str, float]:
    """The numbers of nested JSON by path; a score {value, low, high, n} counts as its value, with its bounds below."""
    if isinstance(body, Mapping):
        parts = [
            numbers(part, f"{path}/{key}" if path and key != "value" else path or key) for key, part in body.items()
        ]
        return {key: value for part in parts for key, value in part.items()}
    return {path: float(body)} if isinstance(body, int | float) else {}
