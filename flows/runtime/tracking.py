"""The one file that knows MLflow. It is told afterwards, by a process of its own, from the notes in the spool.

MLflow may be slow, hung or dead: the work never waits for it, and what could not be sent is sent by the next run, or by
`python -m flows.runtime.tracking`. Sending the same note twice changes nothing: a run is found again by its note, and a
point has the same time each time.
"""

import argparse
import contextlib
import csv
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from flows.runtime import spool
from flows.runtime.environment import home
from tasks.errors import BadInput
from tasks.files import read_json

PATIENCE_SECONDS = 30.0  # without any sign of life from MLflow, after the work is done
INTERRUPTED_PATIENCE_SECONDS = 3.0
LOOK_SECONDS = 3.0
RETRY_SECONDS = 15.0
EXPERIMENT = "athanor"
ENDINGS = {"finished": "FINISHED", "restored": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
ALIVE = "alive"
LOG = "tracking.log"
SAMPLES = "samples.csv"  # of a policy, by step


@contextmanager
def following(patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Tell MLflow what happens in the block while it happens, and give it `patience` seconds for the rest."""
    command = [sys.executable, "-m", "flows.runtime.tracking", "--follow"]
    # Our own client dies sooner than MLflow's default, four minutes per call; the spool does the retrying.
    impatient = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", **os.environ}
    spool.folder().mkdir(parents=True, exist_ok=True)
    with open(spool.folder() / LOG, "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=impatient)
    try:
        yield
    except BaseException as error:
        _await_end(process, patience if isinstance(error, Exception) else INTERRUPTED_PATIENCE_SECONDS)
        raise
    _await_end(process, patience)


def _await_end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    assert process.stdin is not None
    process.stdin.close()
    closed = time.time()
    while process.poll() is None and time.time() - max(closed, _last_sign()) < patience:
        time.sleep(0.05)
    late = process.poll() is None
    process.kill()
    if process.wait():
        lines = (spool.folder() / LOG).read_text(encoding="utf-8").splitlines()
        reason = "no answer" if late else lines[-1] if lines else f"exit code {process.returncode}"
        print(
            f"MLflow at {uri()} could not be told ({reason}). Nothing is lost: it waits in {spool.folder()} "
            "and is told by the next run or by `python -m flows.runtime.tracking`.",
            file=sys.stderr,
        )


def uri() -> str:
    """Where MLflow is."""
    return os.environ["MLFLOW_TRACKING_URI"]


def _last_sign() -> float:
    with contextlib.suppress(OSError):
        return (spool.folder() / ALIVE).stat().st_mtime
    return 0.0


def make_database(where: str) -> None:
    """Make MLflow's tables aside and put them in place whole: of a half-made database MLflow never recovers."""
    path = Path(where.removeprefix("sqlite:///"))
    if not where.startswith("sqlite:///") or path.exists():
        return
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        aside = Path(folder, path.name)
        MlflowClient(f"sqlite:///{aside}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            os.link(aside, path)


class Teller:
    """Tells MLflow what the notes say."""

    def __init__(self) -> None:
        from mlflow import MlflowClient

        make_database(uri())
        self._client = MlflowClient()
        self._experiment = self._find_experiment()
        self._points: dict[str, int] = {}  # told so far, by note and file
        self._known: set[str] = set()

    def tell_all(self) -> None:
        """Every note, oldest first; those whose run is over are removed."""
        for folder in sorted(path for path in spool.folder().glob("*") if (path / spool.NOTE).is_file()):
            with _alone_with(folder) as ours:
                if ours:
                    self._tell(folder)

    def _tell(self, folder: Path) -> None:
        note = read_json(folder / spool.NOTE)
        if note["kind"] == "session":
            self._close_session(note)
            shutil.rmtree(folder)
            return
        if note["status"] == "running" and not psutil.pid_exists(note["pid"]):
            note.update(status="interrupted", end=note["start"])
        run_id = self._run(note)
        self._describe(run_id, note)
        self._tell_steps(run_id, note, folder)
        self._tell_system(run_id, folder)
        if note["status"] != "running":
            self._tell_results(run_id, note, folder / spool.COPIED)
            self._client.set_terminated(run_id, ENDINGS[note["status"]], note["end"])
            if note["session"]["is_dvcs"]:  # which does not tell us when it is over
                self._client.set_terminated(self._parent(note["session"]), "FINISHED", note["end"])
            shutil.rmtree(folder)

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        embedded = uri().startswith("sqlite:")  # whose default for artifacts depends on the folder
        return str(self._client.create_experiment(name, (home() / "mlruns").as_uri() if embedded else None))

    def _run(self, note: Mapping[str, Any]) -> str:
        found = self._find(f"tags.`athanor.note` = '{note['id']}'")
        if found:
            return found
        parent = self._parent(note["session"])
        tags = {"mlflow.runName": note["stage"], "athanor.note": note["id"], "athanor.stage": note["stage"]}
        if parent:
            tags["mlflow.parentRunId"] = parent
        return str(self._client.create_run(self._experiment, note["start"], tags).info.run_id)

    def _parent(self, session: Mapping[str, Any]) -> str | None:
        if not session["name"]:
            return None
        found = self._find(f"tags.`athanor.session` = '{session['id']}'")
        if found:
            return found
        tags = {"mlflow.runName": session["name"], "athanor.session": session["id"]}
        return str(self._client.create_run(self._experiment, session["start"], tags).info.run_id)

    def _find(self, query: str) -> str | None:
        found = self._client.search_runs([self._experiment], query, max_results=1)
        self._sign()
        return str(found[0].info.run_id) if found else None

    def _close_session(self, note: Mapping[str, Any]) -> None:
        parent = self._parent(note["session"])
        children = self._client.search_runs([self._experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
        shared = {key: value for key, value in note["tags"].items() if key.startswith("dvc.")}
        for run_id, tags in [(parent, note["tags"]), *((run.info.run_id, shared) for run in children)]:
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)
            self._sign()
        self._client.set_terminated(parent, ENDINGS[note["status"]], note["end"])

    def _describe(self, run_id: str, note: Mapping[str, Any]) -> None:
        """Params, tags and data sets, once they are all known and once more at the end."""
        from mlflow.entities import Param, RunTag

        if f"{run_id} {note['status']}" in self._known:
            return
        params = [Param(key, str(value)[:6000]) for key, value in note["params"].items()]
        tags = [RunTag(key, str(value)[:5000]) for key, value in {**note["tags"], "status": note["status"]}.items()]
        for start in range(0, max(len(params), len(tags)), 100):
            part = slice(start, start + 100)
            self._client.log_batch(run_id, params=params[part], tags=tags[part])
            self._sign()
        self._tell_inputs(run_id, note["tags"])
        self._known.add(f"{run_id} {note['status']}")

    def _tell_inputs(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        deps = {key.removeprefix("dvc.dep."): value for key, value in tags.items() if key.startswith("dvc.dep.data")}
        inputs = [DatasetInput(Dataset(path, md5[:36], "dvc", f'{{"path": "{path}"}}')) for path, md5 in deps.items()]
        if inputs:
            self._client.log_inputs(run_id, inputs)
            self._sign()

    def _tell_steps(self, run_id: str, note: Mapping[str, Any], folder: Path) -> None:
        copied = folder / spool.COPIED / "report" / "steps.csv"
        rows = _read_csv(copied if copied.is_file() else Path(note["steps"]))
        points = [
            (key, value, note["start"] + int(float(row["step"])), int(float(row["step"])))
            for row in rows
            if _number(row.get("step")) is not None
            for key, cell in row.items()
            if key != "step" and (value := _number(cell)) is not None
        ]
        self._tell_points(run_id, "steps", points)

    def _tell_system(self, run_id: str, folder: Path) -> None:
        with contextlib.suppress(OSError, ValueError), open(folder / spool.SYSTEM, encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]
            origin = int(rows[0][0]) if rows else 0
            points = [(key, float(value), int(ms), (int(ms) - origin) // 1000) for ms, key, value in rows]
            self._tell_points(run_id, "system", points)

    def _tell_points(self, run_id: str, kind: str, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        told = self._points.get(f"{run_id} {kind}", 0)
        for start in range(told, len(points), 1000):
            part = [Metric(*point) for point in points[start : start + 1000]]
            self._client.log_batch(run_id, metrics=part)
            self._points[f"{run_id} {kind}"] = start + len(part)
            self._sign()

    def _tell_results(self, run_id: str, note: Mapping[str, Any], files: Path) -> None:
        values: dict[str, float] = {}
        for name, prefix in (("report", ""), ("timings", "timings/")):
            if (files / f"{name}.json").is_file():
                values |= {
                    prefix + key: value for key, value in spool.numbers(read_json(files / f"{name}.json")).items()
                }
        self._tell_points(run_id, "results", [(key, value, note["end"], 0) for key, value in values.items()])
        if (files / "report").is_dir():
            self._client.log_artifacts(run_id, str(files / "report"), "report")
        self._tell_samples(run_id, files / "report" / SAMPLES)
        for path in files.glob("*.json"):
            self._client.log_artifact(run_id, str(path))
        self._sign()
        if f"dvc.out.data/models/{note['stage']}" in note["tags"] and note["status"] == "finished":
            self._register(run_id, note, files / "model")

    def _tell_samples(self, run_id: str, path: Path) -> None:
        """Answers from the first step to the last, as the table that MLflow's page compares runs by."""
        rows, name = _read_csv(path), path.with_suffix(".json").name
        if rows and name not in (file.path for file in self._client.list_artifacts(run_id)):  # else it would grow
            columns = {column: [row[column] for row in rows] for column in rows[0]}
            with warnings.catch_warnings(action="ignore"):  # MLflow's way with pandas is its own affair
                self._client.log_table(run_id, columns, name)
            self._sign()

    def _register(self, run_id: str, note: Mapping[str, Any], model: Path) -> None:
        """Log the model (small files by value, all of it by its DVC hash) and register it under the stage's name."""
        import mlflow
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        stage = note["stage"]
        if self._client.search_model_versions(f"name = '{stage}' and run_id = '{run_id}'"):
            return
        tags = {**note["tags"], "athanor.note": note["id"], "path": f"data/models/{stage}"}
        logged = mlflow.create_external_model(stage, run_id, tags, experiment_id=self._experiment)
        if model.is_dir():
            self._client.log_model_artifacts(logged.model_id, str(model))
        self._sign()
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
        with contextlib.suppress(MlflowException):  # it exists
            self._client.create_registered_model(stage)
        self._client.create_model_version(
            stage, f"models:/{logged.model_id}", run_id, tags=tags, model_id=logged.model_id
        )
        self._sign()

    def _sign(self) -> None:
        (spool.folder() / ALIVE).touch()


@dataclass(frozen=True)
class Made:
    """A run that made something, as MLflow knows it."""

    stage: str
    run_id: str
    start: int
    tags: Mapping[str, str]
    model_version: str = ""


def registered_model(name: str, version: str | None = None) -> Made:
    """A version of a registered model, the newest by default, and the run that made it. Raises BadInput."""
    from mlflow import MlflowClient

    client = MlflowClient()
    versions = {int(found.version): found for found in client.search_model_versions(f"name = '{name}'")}
    number = int(version) if version else max(versions, default=0)
    if number not in versions:
        known = sorted({model.name for model in client.search_registered_models()})
        has = (
            f"it has {', '.join(map(str, sorted(versions)))}"
            if versions
            else f"there are: {', '.join(known) or 'none'}"
        )
        raise BadInput(
            f"MLflow at {uri()} knows no model {name!r} {f'version {version}' if version else 'at all'}; {has}"
        )
    run = client.get_run(versions[number].run_id)
    return _made(run, str(number))


def maker(path: str, md5: str, before: int) -> Made | None:
    """The newest run that wrote exactly this at `path` and began before then (milliseconds since 1970)."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiments = [found.experiment_id for found in client.search_experiments()]
    query = f"tags.`dvc.out.{path}` = '{md5}' and attributes.start_time <= {before}"
    found = client.search_runs(experiments, query, max_results=1, order_by=["attributes.start_time DESC"])
    return _made(found[0]) if found else None


def _made(run: Any, model_version: str = "") -> Made:
    tags = dict(run.data.tags)
    return Made(tags.get("athanor.stage", ""), run.info.run_id, run.info.start_time, tags, model_version)


@contextmanager
def _alone_with(folder: Path) -> Iterator[bool]:
    """Whether no other process is telling `folder` now."""
    with open(folder / "lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _read_csv(path: Path) -> list[dict[str, str]]:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
    return []


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None


def _await_close(over: threading.Event) -> None:
    sys.stdin.read()
    over.set()


def main() -> int:
    """Tell what waits; with --follow, go on until standard input closes."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.runtime.tracking", description="Tell MLflow what waits in the spool."
    )
    parser.add_argument("--follow", action="store_true", help="go on until standard input closes")
    over = threading.Event()
    if parser.parse_args().follow:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the work; it closes our input
        os.nice(10)
        threading.Thread(target=_await_close, args=(over,), daemon=True).start()
    else:
        over.set()
    spool.folder().mkdir(parents=True, exist_ok=True)
    teller: Teller | None = None
    while True:
        last = over.is_set()
        try:
            teller = teller or Teller()
            teller.tell_all()
            wait = LOOK_SECONDS
        except Exception as error:  # whatever a server, a network or a database may come up with
            if last:
                print(f"{type(error).__name__}: {str(error).splitlines()[0][:300]}", file=sys.stderr)
                return 1
            wait = RETRY_SECONDS
        if last:
            return 0
        over.wait(wait)


if __name__ == "__main__":
    sys.exit(main())
