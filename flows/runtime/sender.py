"""Send the records that wait in the spool to MLflow: each run once, with its points, artifacts and model.

Sending a record twice changes nothing: its MLflow run is found by the id of the record, and each point has the same
time again. A record that MLflow refuses three times is put aside, so that it does not hold up the others.
"""

import contextlib
import csv
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.runtime import spool
from flows.runtime.environment import RUN, home
from flows.runtime.mlflow_names import EXPERIMENT, EXPERIMENT_TAGS, accepted, renamed_tags
from tasks.errors import BadInput
from tasks.files import locked, read_json
from tasks.models import LEFT_OUT
from tasks.reports import read_csv

RUN_STATUS = {"finished": "FINISHED", "restored": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
PROGRESS = "progress"  # a file that the sender touches after each call that MLflow has answered
SAMPLES = "samples.csv"  # a policy's answers by training step
MAX_PARAM_CHARS, MAX_TAG_CHARS, MAX_DIGEST_CHARS = 6000, 5000, 36  # limits of MLflow
BATCH_PARAMS, BATCH_POINTS = 100, 1000  # limits of MLflow for one call of log_batch
MAX_REFUSALS = 3
REFUSALS = {  # MLflow's error codes for what it will refuse again; anything else is a problem of the server
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE",
    "RESOURCE_DOES_NOT_EXIST",
}  # fmt: skip
NEWEST = "newest"  # the alias of the newest version of each model


def refused_folder() -> Path:
    """Return the folder of the records that MLflow has refused."""
    return home() / RUN / "refused"


def uri() -> str:
    """Return the address of MLflow."""
    return os.environ["MLFLOW_TRACKING_URI"]


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

        self.put_aside: list[str] = []  # "<record>: <reason>" of the records that were refused too often
        self._refusals = Counter[str]()
        self._touch()  # importing MLflow takes seconds
        make_database(uri())
        self._client = MlflowClient()
        self._experiment = self._find_experiment()
        self._num_sent: dict[str, int] = {}  # points sent so far, by "<run id> <kind of points>"
        self._described: set[str] = set()  # "<run id> <status>" of the runs whose params and tags have been sent

    def send_all(self) -> None:
        """Send every record, the oldest first; remove those whose run has ended.

        Raises the error of a server that cannot be reached at once, and any other error after the remaining records.
        """
        folders = [path for path in spool.folder().glob("*") if (path / spool.RECORD).is_file()]
        last_error: Exception | None = None
        for folder in sorted(folders, key=lambda path: (path.name.startswith(spool.SESSION), path.name)):
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(locked(folder / "lock", refusal="another process sends this record"))
                except BadInput:
                    continue
                try:
                    self._send(folder)
                except Exception as error:
                    if _is_unreachable(error):
                        raise
                    if _is_refusal(error):
                        self._count_refusal(folder, error)
                    else:
                        last_error = error
        if last_error is not None:
            raise last_error

    @property
    def has_refused_records(self) -> bool:
        """Whether a record was refused that is still in the spool."""
        return any(number < MAX_REFUSALS for number in self._refusals.values())

    def _count_refusal(self, folder: Path, error: Exception) -> None:
        """Count a refusal of the record in `folder`; after the last one, move it out of the spool."""
        self._refusals[folder.name] += 1
        if self._refusals[folder.name] >= MAX_REFUSALS:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:500]
            target = refused_folder() / f"{folder.name}-{spool.now()}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(Exception):  # the record may be unreadable, or its run may not exist
                self._end_refused_run(read_json(folder / spool.RECORD), reason)
            folder.rename(target)
            (target / "reason.txt").write_text(reason + "\n", encoding="utf-8")
            self.put_aside.append(f"{folder.name}: {reason}")

    def _end_refused_run(self, record: Mapping[str, Any], reason: str) -> None:
        """End the run of a record that is put aside, so that MLflow does not show it as running."""
        if run_id := self._find(f"tags.`athanor.record` = '{record['id']}'"):
            self._client.set_tag(run_id, "refused", reason)
            self._client.set_terminated(run_id, RUN_STATUS.get(record["status"], "FAILED"), record.get("end"))

    def _send(self, folder: Path) -> None:
        record = read_json(folder / spool.RECORD)
        if record["status"] == "running" and not spool.is_alive(record):
            record.update(status="interrupted", end=max(record["start"], spool.last_change(folder)))
        if record["kind"] == "promotion":
            from flows.versions import mlflow_aliases

            mlflow_aliases.follow(self._client, self._experiment, record)
            shutil.rmtree(folder)
            return
        if record["kind"] == "session":
            self._send_session(record, folder)
            return
        run_id = self._run(record)
        self._describe(run_id, record)
        self._send_steps(run_id, record, folder)
        self._send_system_metrics(run_id, folder)
        if record["status"] != "running":
            self._send_results(run_id, record, folder / spool.COPIED)
            self._client.set_terminated(run_id, RUN_STATUS[record["status"]], record["end"])
            self._forget(run_id)
            if record["session"]["is_dvc"]:  # DVC does not say when it ends, so that each stage ends the session
                self._client.set_terminated(self._parent(record["session"]), "FINISHED", record["end"])
            shutil.rmtree(folder)

    def _find_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            for key, value in EXPERIMENT_TAGS.items():
                if key not in experiment.tags:
                    self._client.set_experiment_tag(experiment.experiment_id, key, value)
            return str(experiment.experiment_id)
        is_embedded = uri().startswith("sqlite:")  # the default folder of its artifacts depends on the current folder
        artifacts = (home() / "mlruns").as_uri() if is_embedded else None
        return str(self._client.create_experiment(name, artifacts, EXPERIMENT_TAGS))

    def _run(self, record: Mapping[str, Any]) -> str:
        """Return the id of the MLflow run of a record; create the run if there is none."""
        if run_id := self._find(f"tags.`athanor.record` = '{record['id']}'"):
            return run_id
        parent = self._parent(record["session"])
        name = f"{record['stage']} {spool.minute(record['start'])}"
        tags = {"mlflow.runName": name, "athanor.record": record["id"], "athanor.stage": record["stage"]}
        if parent:
            tags["mlflow.parentRunId"] = parent
        return str(self._client.create_run(self._experiment, record["start"], tags).info.run_id)

    def _parent(self, session: Mapping[str, Any]) -> str | None:
        """Return the id of the MLflow run of a session, created if there is none; None for a single stage run."""
        if not session["name"]:
            return None
        if run_id := self._find(f"tags.`athanor.session` = '{session['id']}'"):
            return run_id
        name = f"{session['name']} {spool.minute(session['start'])}"
        tags = {"mlflow.runName": name, "athanor.session": session["id"], "athanor.kind": session["name"]}
        return str(self._client.create_run(self._experiment, session["start"], tags).info.run_id)

    def _find(self, query: str) -> str | None:
        runs = self._client.search_runs([self._experiment], query, max_results=1)
        self._touch()
        return str(runs[0].info.run_id) if runs else None

    def _send_session(self, record: Mapping[str, Any], folder: Path) -> None:
        """Show that a session runs, or close it."""
        parent = self._parent(record["session"])
        if parent is None:
            return
        if record["status"] == "running":
            if self._client.get_run(parent).info.status != "RUNNING":  # it was interrupted, and continues
                self._client.update_run(parent, "RUNNING")
            return
        if (folder / spool.ATTACHED).is_dir():
            self._client.log_artifacts(parent, str(folder / spool.ATTACHED))
        self._close_session(parent, record)
        shutil.rmtree(folder)

    def _close_session(self, parent: str, record: Mapping[str, Any]) -> None:
        """Write the results of a session into its run and those of its stages, and end it."""
        children = self._client.search_runs([self._experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
        shared = {key: value for key, value in record["tags"].items() if key.startswith("dvc.")}
        own = {**record["tags"], **({"mlflow.runName": record["title"]} if record.get("title") else {})}
        for run_id, tags in [(parent, own), *((run.info.run_id, shared) for run in children)]:
            for key, value in tags.items():
                self._client.set_tag(run_id, accepted(key), str(value)[:MAX_TAG_CHARS])
            self._touch()
        points = [(key, float(value), record["end"], 0) for key, value in record.get("metrics", {}).items()]
        self._send_points(parent, "session", points)
        if tokens := record["tags"].get("data"):
            self._send_inputs(parent, {f"dvc.dep.{spool.TOKENS}": tokens})
        self._client.set_terminated(parent, RUN_STATUS[record["status"]], record["end"])

    def _describe(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Send params, tags and data sets: once while the run goes on, and once more at its end."""
        from mlflow.entities import Param, RunTag

        if f"{run_id} {record['status']}" in self._described:
            return
        params = [Param(accepted(key), str(value)[:MAX_PARAM_CHARS]) for key, value in record["params"].items()]
        values = {**record["tags"], "status": record["status"], **renamed_tags([*record["params"], *record["tags"]])}
        tags = [RunTag(accepted(key), str(value)[:MAX_TAG_CHARS]) for key, value in values.items()]
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
        rows = read_csv(copied if copied.is_file() else Path(record["steps"]))
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
        for key, name in renamed_tags({key for key, *_ in points[num_sent:]}).items():
            self._client.set_tag(run_id, key, name[:MAX_TAG_CHARS])
        for start in range(num_sent, len(points), BATCH_POINTS):
            part = [Metric(accepted(key), *rest) for key, *rest in points[start : start + BATCH_POINTS]]
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
        rows, name = read_csv(path), path.with_suffix(".json").name
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
        source = f"models:/{logged.model_id}"
        card = record.get("card", "")
        version = self._client.create_model_version(
            stage, source, run_id, tags=tags, model_id=logged.model_id, description=card
        )
        self._client.update_registered_model(stage, card)
        self._client.set_registered_model_alias(stage, NEWEST, version.version)
        self._touch()

    def _forget(self, run_id: str) -> None:
        """Drop what is remembered of a run that has ended, because one process may send thousands."""
        for key in [key for key in self._num_sent if key.startswith(f"{run_id} ")]:
            del self._num_sent[key]
        self._described = {key for key in self._described if not key.startswith(f"{run_id} ")}

    def _touch(self) -> None:
        (spool.folder() / PROGRESS).touch()


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None


def _is_unreachable(error: Exception) -> bool:
    """Whether the server, and not this record, is the reason."""
    return (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)) or "API request to" in str(error)


def _is_refusal(error: Exception) -> bool:
    """Whether sending the record again would fail again: MLflow refuses it, or its files cannot be read."""
    code = getattr(error, "error_code", None)
    return code in REFUSALS if code is not None else isinstance(error, ValueError | LookupError | TypeError | OSError)
