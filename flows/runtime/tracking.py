"""Send the records that wait in the spool to MLflow. This file and tracked_runs.py alone use MLflow.

A process of its own sends them while and after the stages run, so that a slow, hung or stopped server never delays the
work. The next run, or `python -m flows.runtime.tracking`, sends what could not be sent. Sending a record twice changes
nothing: its MLflow run is found by the id of the record, and each point has the same time again.
"""

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
from pathlib import Path
from typing import Any

import psutil

from flows.runtime import arguments, spool
from flows.runtime.environment import home
from tasks.addresses import redact
from tasks.files import read_json
from tasks.models import LEFT_OUT

# How long the work, once it is done, waits for a sender process that makes no progress.
PATIENCE_SECONDS = 30.0
INTERRUPTED_PATIENCE_SECONDS = 3.0
POLL_SECONDS = 3.0  # between two looks into the spool
RETRY_SECONDS = 15.0  # after an error of the server
EXPERIMENT = "athanor"
RUN_STATUS = {"finished": "FINISHED", "restored": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
PROGRESS = "progress"  # a file that the sender touches after each call that MLflow has answered
LOG = "tracking.log"
SAMPLES = "samples.csv"  # a policy's answers by training step
MAX_PARAM_CHARS, MAX_TAG_CHARS, MAX_DIGEST_CHARS = 6000, 5000, 36  # limits of MLflow
BATCH_PARAMS, BATCH_POINTS = 100, 1000  # limits of MLflow for one call of log_batch


@contextmanager
def following(patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Send records to MLflow from another process while the block runs.

    After the block, wait for the rest until the sender makes no progress for `patience` seconds.
    """
    command = [sys.executable, "-m", "flows.runtime.tracking", "--follow"]
    # MLflow's client retries a call for four minutes by default. Ours gives up sooner, because the spool retries.
    variables = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", **os.environ}
    spool.folder().mkdir(parents=True, exist_ok=True)
    with open(spool.folder() / LOG, "w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=variables)
    try:
        yield
    except BaseException as error:
        _await_end(process, patience if isinstance(error, Exception) else INTERRUPTED_PATIENCE_SECONDS)
        raise
    _await_end(process, patience)


def _await_end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    """Wait for the sender to end, and kill it when it makes no progress for `patience` seconds."""
    assert process.stdin is not None
    process.stdin.close()  # tells the sender to send the rest and end
    close_time = time.time()
    while process.poll() is None and time.time() - max(close_time, _time_of_progress()) < patience:
        time.sleep(0.05)
    is_late = process.poll() is None
    process.kill()
    if process.wait():
        lines = (spool.folder() / LOG).read_text(encoding="utf-8").splitlines()
        reason = "no answer" if is_late else lines[-1] if lines else f"exit code {process.returncode}"
        print(
            f"warning: not all records could be sent to MLflow at {redact(uri())} ({redact(reason)}). Nothing "
            f"is lost: they wait in {spool.folder()}, and the next run or `python -m flows.runtime.tracking` sends "
            "them.",
            file=sys.stderr,
        )


def uri() -> str:
    """Return the address of MLflow."""
    return os.environ["MLFLOW_TRACKING_URI"]


def _time_of_progress() -> float:
    with contextlib.suppress(OSError):
        return (spool.folder() / PROGRESS).stat().st_mtime
    return 0.0


def make_database(database: str) -> None:
    """Create MLflow's tables in a temporary file and link it into place, if `database` is SQLite and does not exist.

    MLflow does not recover from a database whose tables are incomplete because the process was killed.
    """
    path = Path(database.removeprefix("sqlite:///"))
    if not database.startswith("sqlite:///") or path.exists():
        return
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
        temporary = Path(folder, path.name)
        MlflowClient(f"sqlite:///{temporary}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)


class Sender:
    """Sends the records of the spool to MLflow."""

    def __init__(self) -> None:
        from mlflow import MlflowClient

        make_database(uri())
        self._client = MlflowClient()
        self._experiment = self._find_experiment()
        self._num_sent: dict[str, int] = {}  # points sent so far, by "<run id> <kind of points>"
        self._described: set[str] = set()  # "<run id> <status>" of the runs whose params and tags have been sent

    def send_all(self) -> None:
        """Send every record, the oldest first; remove those whose run has ended."""
        for folder in sorted(path for path in spool.folder().glob("*") if (path / spool.RECORD).is_file()):
            with _locked(folder) as is_locked:
                if is_locked:
                    self._send(folder)

    def _send(self, folder: Path) -> None:
        record = read_json(folder / spool.RECORD)
        if record["kind"] == "session":
            self._close_session(record)
            shutil.rmtree(folder)
            return
        if record["status"] == "running" and not psutil.pid_exists(record["pid"]):
            record.update(status="interrupted", end=record["start"])
        run_id = self._run(record)
        self._describe(run_id, record)
        self._send_steps(run_id, record, folder)
        self._send_system_metrics(run_id, folder)
        if record["status"] != "running":
            self._send_results(run_id, record, folder / spool.COPIED)
            self._client.set_terminated(run_id, RUN_STATUS[record["status"]], record["end"])
            if record["session"]["is_dvc"]:  # DVC does not say when it ends, so that each stage ends the session
                self._client.set_terminated(self._parent(record["session"]), "FINISHED", record["end"])
            shutil.rmtree(folder)

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        is_embedded = uri().startswith("sqlite:")  # the default folder of its artifacts depends on the current folder
        return str(self._client.create_experiment(name, (home() / "mlruns").as_uri() if is_embedded else None))

    def _run(self, record: Mapping[str, Any]) -> str:
        """Return the id of the MLflow run of a record; create the run if there is none."""
        if run_id := self._find(f"tags.`athanor.record` = '{record['id']}'"):
            return run_id
        parent = self._parent(record["session"])
        tags = {"mlflow.runName": record["stage"], "athanor.record": record["id"], "athanor.stage": record["stage"]}
        if parent:
            tags["mlflow.parentRunId"] = parent
        return str(self._client.create_run(self._experiment, record["start"], tags).info.run_id)

    def _parent(self, session: Mapping[str, Any]) -> str | None:
        """Return the id of the MLflow run of a session, created if there is none; None for a single stage run."""
        if not session["name"]:
            return None
        if run_id := self._find(f"tags.`athanor.session` = '{session['id']}'"):
            return run_id
        tags = {"mlflow.runName": session["name"], "athanor.session": session["id"]}
        return str(self._client.create_run(self._experiment, session["start"], tags).info.run_id)

    def _find(self, query: str) -> str | None:
        runs = self._client.search_runs([self._experiment], query, max_results=1)
        self._touch()
        return str(runs[0].info.run_id) if runs else None

    def _close_session(self, record: Mapping[str, Any]) -> None:
        parent = self._parent(record["session"])
        children = self._client.search_runs([self._experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
        shared = {key: value for key, value in record["tags"].items() if key.startswith("dvc.")}
        for run_id, tags in [(parent, record["tags"]), *((run.info.run_id, shared) for run in children)]:
            for key, value in tags.items():
                self._client.set_tag(run_id, key, value)
            self._touch()
        self._client.set_terminated(parent, RUN_STATUS[record["status"]], record["end"])

    def _describe(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Send params, tags and data sets: once while the run goes on, and once more at its end."""
        from mlflow.entities import Param, RunTag

        if f"{run_id} {record['status']}" in self._described:
            return
        params = [Param(key, str(value)[:MAX_PARAM_CHARS]) for key, value in record["params"].items()]
        values = {**record["tags"], "status": record["status"]}
        tags = [RunTag(key, str(value)[:MAX_TAG_CHARS]) for key, value in values.items()]
        for start in range(0, max(len(params), len(tags)), BATCH_PARAMS):
            part = slice(start, start + BATCH_PARAMS)
            self._client.log_batch(run_id, params=params[part], tags=tags[part])
            self._touch()
        self._send_inputs(run_id, record["tags"])
        self._described.add(f"{run_id} {record['status']}")

    def _send_inputs(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        deps = {key.removeprefix("dvc.dep."): value for key, value in tags.items() if key.startswith("dvc.dep.data")}
        inputs = [
            DatasetInput(Dataset(path, md5[:MAX_DIGEST_CHARS], "dvc", f'{{"path": "{path}"}}'))
            for path, md5 in deps.items()
        ]
        if inputs:
            self._client.log_inputs(run_id, inputs)
            self._touch()

    def _send_steps(self, run_id: str, record: Mapping[str, Any], folder: Path) -> None:
        copied = folder / spool.COPIED / "report" / "steps.csv"
        rows = _read_csv(copied if copied.is_file() else Path(record["steps"]))
        points = [
            (key, value, record["start"] + int(float(row["step"])), int(float(row["step"])))
            for row in rows
            if _number(row.get("step")) is not None
            for key, cell in row.items()
            if key != "step" and (value := _number(cell)) is not None
        ]
        self._send_points(run_id, "steps", points)

    def _send_system_metrics(self, run_id: str, folder: Path) -> None:
        with contextlib.suppress(OSError, ValueError), open(folder / spool.SYSTEM, encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == 3]
            origin = int(rows[0][0]) if rows else 0
            points = [(key, float(value), int(ms), (int(ms) - origin) // 1000) for ms, key, value in rows]
            self._send_points(run_id, "system", points)

    def _send_points(self, run_id: str, kind: str, points: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        num_sent = self._num_sent.get(f"{run_id} {kind}", 0)
        for start in range(num_sent, len(points), BATCH_POINTS):
            part = [Metric(*point) for point in points[start : start + BATCH_POINTS]]
            self._client.log_batch(run_id, metrics=part)
            self._num_sent[f"{run_id} {kind}"] = start + len(part)
            self._touch()

    def _send_results(self, run_id: str, record: Mapping[str, Any], files: Path) -> None:
        values: dict[str, float] = {}
        for name, prefix in (("report", ""), ("timings", "timings/")):
            if (files / f"{name}.json").is_file():
                values |= {
                    prefix + key: value for key, value in spool.numbers(read_json(files / f"{name}.json")).items()
                }
        self._send_points(run_id, "results", [(key, value, record["end"], 0) for key, value in values.items()])
        if (files / "report").is_dir():
            self._client.log_artifacts(run_id, str(files / "report"), "report")
        self._send_samples(run_id, files / "report" / SAMPLES)
        for path in files.glob("*.json"):
            self._client.log_artifact(run_id, str(path))
        self._touch()
        has_model = f"dvc.out.data/models/{record['stage']}" in record["tags"]
        if has_model and record["status"] == "finished" and not (files / "model" / LEFT_OUT).is_file():
            self._register(run_id, record, files / "model")

    def _send_samples(self, run_id: str, path: Path) -> None:
        """Send the answers by training step as a table, which MLflow's page compares between runs."""
        rows, name = _read_csv(path), path.with_suffix(".json").name
        if rows and name not in (file.path for file in self._client.list_artifacts(run_id)):  # log_table appends
            columns = {column: [row[column] for row in rows] for column in rows[0]}
            with warnings.catch_warnings(action="ignore"):  # of MLflow's own use of pandas
                self._client.log_table(run_id, columns, name)
            self._touch()

    def _register(self, run_id: str, record: Mapping[str, Any], model: Path) -> None:
        """Log the model (small files by value, all of it by its DVC hash) and register it under the stage's name."""
        import mlflow
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        stage = record["stage"]
        if self._client.search_model_versions(f"name = '{stage}' and run_id = '{run_id}'"):
            return
        tags = {**record["tags"], "athanor.record": record["id"], "path": f"data/models/{stage}"}
        logged = mlflow.create_external_model(stage, run_id, tags, experiment_id=self._experiment)
        if model.is_dir():
            self._client.log_model_artifacts(logged.model_id, str(model))
        self._touch()
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
        with contextlib.suppress(MlflowException):  # the model exists
            self._client.create_registered_model(stage)
        self._client.create_model_version(
            stage, f"models:/{logged.model_id}", run_id, tags=tags, model_id=logged.model_id
        )
        self._touch()

    def _touch(self) -> None:
        (spool.folder() / PROGRESS).touch()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock `folder` against other senders; yields False if another process has the lock."""
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


def _await_end_of_input(ending: threading.Event) -> None:
    sys.stdin.read()
    ending.set()


def main() -> int:
    """Run the command and return its exit code: 1 if records could not be sent."""
    parser = arguments.parser("flows.runtime.tracking", __doc__)
    parser.add_argument("--follow", action="store_true", help="continue until standard input closes")
    ending = threading.Event()
    if parser.parse_args().follow:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the pipeline, which then closes our input
        os.nice(10)
        threading.Thread(target=_await_end_of_input, args=(ending,), daemon=True).start()
    else:
        ending.set()
    spool.folder().mkdir(parents=True, exist_ok=True)
    sender: Sender | None = None
    while True:
        is_last = ending.is_set()  # read before sending, so that what was written until then is sent
        try:
            sender = sender or Sender()
            sender.send_all()
            seconds = POLL_SECONDS
        except Exception as error:  # any error of a server, a network or a database
            if is_last:
                print(f"{type(error).__name__}: {str(error).splitlines()[0][:300]}", file=sys.stderr)
                return 1
            seconds = RETRY_SECONDS
        if is_last:
            return 0
        ending.wait(seconds)


if __name__ == "__main__":
    sys.exit(main())
