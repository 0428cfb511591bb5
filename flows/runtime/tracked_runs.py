"""Find runs in MLflow: the run that made a model, and the runs that made its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.runtime.tracking import uri
from tasks.errors import BadInput

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
    from mlflow import MlflowClient

    client = MlflowClient()
    versions = {int(model.version): model for model in client.search_model_versions(f"name = '{name}'")}
    number = int(version) if version else max(versions, default=0)
    if number not in versions:
        if versions:
            numbers = ", ".join(map(str, sorted(versions)))
            raise BadInput(f"model {name!r} has no version {version} in MLflow at {uri()}; it has {numbers}")
        names = sorted({model.name for model in client.search_registered_models()})
        raise BadInput(f"no model {name!r} in MLflow at {uri()}; there are: {', '.join(names) or 'none'}")
    return _stage_run(client.get_run(versions[number].run_id), str(number))


def run_with_id(run_id: str) -> StageRun:
    """Return the run with an id, or the only one whose id begins with it (8 characters at least). Raises BadInput."""
    from mlflow import MlflowClient

    client = MlflowClient()
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
    from mlflow import MlflowClient

    parent = run.tags.get("mlflow.parentRunId")
    if parent and "dvc.experiment" not in run.tags:
        return str(MlflowClient().get_run(parent).data.tags.get("dvc.experiment", ""))
    return str(run.tags.get("dvc.experiment", ""))


def run_that_wrote(path: str, md5: str, before: int) -> StageRun | None:
    """Return the newest run that wrote `path` with the DVC hash `md5` and began before `before` (ms since 1970)."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`dvc.out.{path}` = '{md5}' and attributes.start_time <= {before}"
    runs = client.search_runs(experiments, query, max_results=1, order_by=["attributes.start_time DESC"])
    return _stage_run(runs[0]) if runs else None


def models_made_from(path: str, md5: str) -> list[str]:
    """Return the registered versions (NAME/VERSION) trained on `path` with the DVC hash `md5`, or from such a model."""
    from mlflow import MlflowClient

    client = MlflowClient()
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


def _stage_run(run: Any, model_version: str = "") -> StageRun:
    tags = dict(run.data.tags)
    return StageRun(tags.get("athanor.stage", ""), run.info.run_id, run.info.start_time, tags, model_version)
