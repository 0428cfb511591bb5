"""Bring the stages of dvc.yaml up to date, and print their results.

DVC walks the stages and decides which of them are stale; each stale stage runs as a nested flow run of this flow.
"""

import importlib
import sys
import time
from typing import Any

from prefect import flow, runtime

from flows.runtime import command, embedded, params, results, spool, stage_run, tracking, versioning
from tasks import pipeline_stages
from tasks.errors import GateFailed

INGESTION = "ingestion"


@flow(name="pipeline", flow_run_name="pipeline")
def pipeline(to: str | None = None) -> dict[str, str]:
    """Bring every stage, or those that `to` needs, up to date.

    Returns for each stage whose results changed how they were obtained: "run" or "restored" (from DVC's cache).
    """
    session, states = spool.Session("pipeline"), dict[str, str]()
    checked = params.load_all(versioning.stages(to))

    def run(versions: versioning.Versions) -> None:
        stage_run.run(stage_flow(versions.stage), versions, session)
        states[versions.stage] = "run"

    def restore(versions: versioning.Versions) -> None:
        tags = versions.tags() | versions.out_tags()
        session.record_restored(versions.stage, params.flatten(checked[versions.stage]), tags)
        states[versions.stage] = "restored"

    with tracking.following(), session.closing(lambda: _tags(session)):
        versioning.reproduce(run, restore, to)
    return states


def stage_flow(stage: str) -> Any:
    """Return the flow of a stage. The file has the stage's name; all training stages share one flow."""
    name = command.TRAINING if params.is_training(stage) else stage
    return getattr(importlib.import_module(f"flows.{name}"), name)


def run_if_stale(to: str | None, as_json: bool = False) -> None:
    """Run the pipeline if a stage is stale, then print the results. Raises what a stage raises."""
    start = time.perf_counter()
    params.check_names()
    params.check_blocks([stage.name for stage in pipeline_stages.read_stages()])
    states: dict[str, str] = {}
    try:
        if stale := versioning.stale(to):
            states = embedded.flow_run(lambda: check_params(to, stale), lambda: pipeline(to))
        elif not as_json:
            print("Everything is up to date.")
    except GateFailed:
        results.show(versioning.stages(to), {}, time.perf_counter() - start, as_json)
        raise
    results.show(versioning.stages(to), states, time.perf_counter() - start, as_json)
    if not as_json:
        results.show_places()


def check_params(to: str | None, stale: list[str]) -> None:
    """Raise BadParams or BadInput for what would fail later: wrong params, and files that ingestion would not find."""
    checked = params.load_all(versioning.stages(to))
    if INGESTION in stale:
        params.check_files(checked[INGESTION])


def _tags(session: spool.Session) -> dict[str, str]:
    commit = versioning.save_experiment(f"{session.name}-{session.id}")
    flow_run = {"prefect.flow_run_id": str(runtime.flow_run.id)}
    return {**flow_run, "dvc.experiment": commit} if commit else flow_run


def main() -> int:
    """Run the command and return its exit code."""
    arguments = command.flow_arguments(command.PIPELINE)
    return command.guarded(lambda: run_if_stale(arguments.to, arguments.json))


if __name__ == "__main__":
    sys.exit(main())
