"""Find runs in MLflow: the run that made a model, and the runs that made its inputs."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows.runtime.tracking import uri
from tasks.errors import BadInput

EVALUATION = "evaluation"
SQLITE = "sqlite:///"
MIN_ID = 8  # characters of the id of a run that a command accepts


@dataclass(frozen=True)
class StageRun:
    """A finished run of a stage as MLflow knows it; `start` in milliseconds since 1970."""

    stage: str
    run_id: str
    start: int
    tags: Mapping[str, str]
    model_version: str = ""


def run_of_model(name: str, version: str | None = None) -> StageRun:
    """Return the run that made a version of a registered model, the newest by default. Raises BadInput."""
    client = _client()
    versions = {int(model.version): model for model in client.search_model_versions(f"name = '{name}'")}
    number = int(version) if version else max(versions, default=0)
    if number not in versions:
        if versions:
            numbers = ", ".join(map(str, sorted(versions)))
            raise BadInput(f"model {name!r} has no version {version} in MLflow at {uri()}; it has {numbers}")
        names = sorted({model.name for model in client.search_registered_models()})
        raise BadInput(f"no model {name!r} in MLflow at {uri()}; there are: {', '.join(names) or 'none'}")
    if not versions[number].run_id:
        raise BadInput(
            f"MLflow at {uri()} does not know the run of {name}/{number}; the tags of this version state its commit"
        )
    return _stage_run(client.get_run(versions[number].run_id), str(number))


def run_with_id(run_id: str) -> StageRun:
    """Return the run with an id, or the only one whose id begins with it (8 characters at least). Raises BadInput."""
    client = _client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    token: str | None = None
    matches: list[Any] = []
    while len(run_id) >= MIN_ID:
        page = client.search_runs(experiments, max_results=1_000, page_token=token)
        matches += [run for run in page if run.info.run_id.startswith(run_id)]
        token = page.token
        if not token:
            break
    if len(matches) != 1:
        raise BadInput(
            f"{len(matches)} runs in MLflow at {uri()} have an id that begins with {run_id!r}. Expected the id of one "
            f"run, or at least its first {MIN_ID} characters; `python -m flows.lineage MODEL` shows those of a model."
        )
    return _stage_run(matches[0])


def experiment_of(run: StageRun) -> str:
    """Return the commit with the state after a run: its own, or that of the pipeline that contains it; or empty."""
    parent = run.tags.get("mlflow.parentRunId")
    if parent and "dvc.experiment" not in run.tags:
        return str(_client().get_run(parent).data.tags.get("dvc.experiment", ""))
    return str(run.tags.get("dvc.experiment", ""))


def run_that_wrote(path: str, md5: str, before: int) -> StageRun | None:
    """Return the newest run that wrote `path` with the DVC hash `md5` and began before `before` (ms since 1970)."""
    client = _client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`dvc.out.{path}` = '{md5}' and attributes.start_time <= {before}"
    runs = client.search_runs(experiments, query, max_results=1, order_by=["attributes.start_time DESC"])
    return _stage_run(runs[0]) if runs else None


def models_made_from(path: str, md5: str) -> list[str]:
    """Return the registered versions (NAME/VERSION) trained on `path` with the DVC hash `md5`, or from such a model."""
    if not has_database():
        return []
    client = _client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    waiting, runs = [(path, md5)], dict[str, None]()
    while waiting:
        dep, value = waiting.pop()
        for run in client.search_runs(experiments, f"tags.`dvc.dep.{dep}` = '{value}'"):
            if run.info.run_id not in runs:
                runs[run.info.run_id] = None
                model = f"data/models/{run.data.tags.get('athanor.stage', '')}"
                if written := run.data.tags.get(f"dvc.out.{model}"):
                    waiting.append((model, written))
    versions = client.search_model_versions()
    return sorted(f"{version.name}/{version.version}" for version in versions if version.run_id in runs)


def delete_old_runs(before: int) -> int:
    """Delete the runs that ended before a time in milliseconds since 1970; return their number.

    Runs that made a registered version stay with their whole pipeline: the version would lose its files and its origin.
    MLflow keeps deleted runs until `mlflow gc`; `mlflow runs restore` brings one back before.
    """
    client = _client()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    made = {version.run_id for version in _all(client.search_model_versions)}
    search = partial(client.search_runs, experiments)
    runs = {run.info.run_id: run.data.tags.get("mlflow.parentRunId", "") for run in _all(search)}
    kept = made | {runs.get(run_id, "") for run_id in made}
    old = [run.info.run_id for run in _all(partial(search, f"attributes.end_time < {before}"))]
    deleted = [run_id for run_id in old if run_id not in kept and runs.get(run_id) not in kept - {""}]
    for run_id in deleted:
        client.delete_run(run_id)
    return len(deleted)


def purge(database: str, days: int) -> None:
    """Remove the rows and files of the runs that were deleted that many days ago: `mlflow gc`.

    It is called in this process, because its arguments contain the address of the database, perhaps with a password.
    """
    from mlflow.cli import gc

    gc.main(["--older-than", f"{days}d", "--backend-store-uri", database], standalone_mode=False)


def has_database() -> bool:
    """Whether MLflow's database exists, which only a run makes; one behind a server always does."""
    address = uri()
    return not address.startswith(SQLITE) or Path(address.removeprefix(SQLITE)).is_file()


def _client() -> Any:
    """A client of MLflow, which never makes a database. Raises BadInput if there is none, or no answer."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if not has_database():
        raise BadInput(
            f"there is no run in MLflow, because {uri()} does not exist. `python -m flows.pipeline` makes it; "
            "`python -m flows.runtime.tracking` does if runs wait to be sent."
        )
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # MLflow's own default takes minutes
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        client = MlflowClient()
        client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError) as error:
        cause = str(error).splitlines()[0]
        raise BadInput(
            f"MLflow at {uri()} does not answer: {cause}. Start it, or check MLFLOW_TRACKING_URI."
        ) from error
    return client


def _all(search: Callable[..., Any]) -> list[Any]:
    """Return what is on all pages of a search."""
    entries, token = [], None
    while True:
        page = search(page_token=token)
        entries += page
        token = page.token
        if not token:
            return entries


def _stage_run(run: Any, model_version: str = "") -> StageRun:
    tags = dict(run.data.tags)
    return StageRun(tags.get("athanor.stage", ""), run.info.run_id, run.info.start_time, tags, model_version)


def is_registered(name: str) -> bool:
    """Whether MLflow has a registered model with this name."""
    return has_database() and bool(_client().search_registered_models(f"name = '{name}'"))


def run_of_version(name: str, version: str | None, alias: str | None) -> str:
    """Return the id of the run that made a version of a registered model. Raises BadInput."""
    if alias is None:
        return run_of_model(name, version).run_id
    return run_of_model(name, version_of_alias(name, alias)).run_id


def version_of_alias(name: str, alias: str) -> str:
    """Return the version of a registered model that has an alias. Raises BadInput."""
    from mlflow.exceptions import MlflowException

    try:
        return str(_client().get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        raise BadInput(f"the model {name!r} in MLflow at {uri()} has no alias {alias!r}: {error.message}") from error


def copy_reports(run_id: str, target: Path) -> tuple[Path, str | None]:
    """Copy the report and items of the evaluation that belongs to a run, and the step logs beside it, below `target`.

    The run may be an evaluation, a whole pipeline, or the training of a model: then the evaluation that read the model,
    and the name of its stage is returned as well. Raises BadInput if MLflow has none.
    """
    from mlflow.exceptions import MlflowException

    client = _client()
    try:
        run = _stage_run(client.get_run(run_id))
    except MlflowException as error:
        raise BadInput(f"there is no run {run_id!r} in MLflow at {uri()}: {error.message}") from error
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    parent = run.tags.get("mlflow.parentRunId", run_id)
    siblings = [_stage_run(one) for one in client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent}'")]
    md5 = run.tags.get(f"dvc.out.data/models/{run.stage}", "")
    evaluations = [run] if run.stage == EVALUATION else [one for one in siblings if one.stage == EVALUATION]
    if md5 and not evaluations:
        query = f"tags.`dvc.dep.data/models/{run.stage}` = '{md5}' and tags.`athanor.stage` = '{EVALUATION}'"
        evaluations = [_stage_run(one) for one in client.search_runs(experiments, query, max_results=1)]
    if not evaluations:
        raise BadInput(f"MLflow at {uri()} has no evaluation that belongs to the run {run_id}; run evaluation first")
    _download(client, evaluations[0].run_id, target, EVALUATION)
    for one in siblings:
        if one.stage != EVALUATION:
            _download(client, one.run_id, target, one.stage)
    return target, run.stage if md5 else None


def _download(client: Any, run_id: str, target: Path, stage: str) -> None:
    """Copy the artifacts of the run of a stage to <target>/<stage>.json and <target>/<stage>/."""
    with TemporaryDirectory() as folder:
        paths = {artifact.path for artifact in client.list_artifacts(run_id)}
        if "report.json" in paths:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(client.download_artifacts(run_id, "report.json", folder), target / f"{stage}.json")
        if "report" in paths:
            shutil.copytree(client.download_artifacts(run_id, "report", folder), target / stage, dirs_exist_ok=True)
