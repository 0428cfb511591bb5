"""Bring the stages of dvc.yaml up to date, and print their results.

DVC walks the stages and decides which of them are stale; each stale stage runs as a nested flow run of this flow.
"""

import contextlib
import importlib
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows import notifications
from flows.runtime import (
    command,
    embedded,
    environment,
    params,
    processes,
    results,
    session_results,
    spool,
    stage_run,
    tracking,
    versioning,
)
from flows.runtime.environment import RUN
from flows.versions import contents
from tasks import pipeline_stages, precompilation
from tasks.errors import GateFailed

INGESTION, EVALUATION = "ingestion", "evaluation"
UNJUDGED = RUN / "unjudged"  # there while an evaluation has run whose model promotion has not judged


Stage = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^\w+$")]


@flow(name="pipeline", flow_run_name="pipeline")
def pipeline(to: Stage | None = None, start: Stage | None = None, force: bool = False) -> dict[str, str]:
    """Bring every stage, or those that `to` needs, up to date.

    Returns for each stage whose results changed how they were obtained: "run" or "restored" (from DVC's cache).

    Args:
        to: The last stage to bring up to date; by default all stages.
        start: Leave out the stages before this one, stale or not.
        force: Repeat stages that are up to date, too, such as an evaluation.
    """
    processes.record(str(runtime.flow_run.id))  # first: what follows imports for seconds, and may be killed meanwhile
    embedded.wait_for_an_absent_server()
    session, states = spool.Session("pipeline"), dict[str, str]()
    checked = params.load_all(versioning.stages(to))
    records = dict[str, spool.Record]()  # of the stages whose outputs are not committed yet
    promotion_tags = dict[str, str]()

    def tags() -> dict[str, str]:
        own = promotion_tags or _tags(session)
        return session_results.described({**own, **session_results.tags(checked, states)})

    with contextlib.ExitStack() as stack:

        def begin(stage: str, state: str) -> None:
            """Begin the session with its first stage: a pipeline with nothing to do leaves no trace."""
            if not states:
                stack.enter_context(tracking.following())
                stack.enter_context(session.closing(tags, lambda: session_results.describe(session, states)))
            states[stage] = state

        def run(versions: versioning.Versions) -> None:
            begin(versions.stage, "run")
            if versions.stage == EVALUATION:
                (environment.home() / UNJUDGED).touch()
            records[versions.stage] = stage_run.run(stage_flow(versions.stage), versions, session)

        def restore(versions: versioning.Versions) -> None:
            begin(versions.stage, "restored")
            tags = versions.tags() | versions.out_tags()
            session.record_restored(versions.stage, params.flatten(checked[versions.stage]), tags)

        try:
            versioning.reproduce(run, restore, to, lambda stage: stage_run.close(records.pop(stage)), start, force)
            if EVALUATION in states or is_unjudged():
                promotion_tags.update(_promote(session))
                (environment.home() / UNJUDGED).unlink(missing_ok=True)
        except BaseException as error:
            for record in records.values():  # DVC could not commit the outputs, or was interrupted meanwhile
                record.fail(error)
            if isinstance(error, GateFailed):  # that is the judgment
                (environment.home() / UNJUDGED).unlink(missing_ok=True)
            notifications.notify_of_failure(error)
            raise
        if states:
            _publish(states, is_judged="promotion" in promotion_tags)
            ran = [stage for stage, state in states.items() if state == "run"]
            notifications.notify_of_models([stage for stage in ran if params.is_training(stage)])
    return states


def is_unjudged() -> bool:
    """Whether a pipeline was interrupted between evaluation and promotion."""
    return (environment.home() / UNJUDGED).is_file()


def _promote(session: spool.Session) -> dict[str, str]:
    """Let the model that was evaluated become candidate and champion, if it may. Return the tags and its result."""
    from flows import promotion

    tags = _tags(session)
    tags |= promotion.after_evaluation(tags.get("dvc.experiment"), session.id)
    if "promotion" in tags and session.folder.is_dir():  # a pipeline with nothing to do has no run
        session.attach(results.FINAL_REPORT)
    return tags


def _publish(states: dict[str, str], is_judged: bool) -> None:
    """Show the verdict, what ran and what was restored on Prefect's page, if it can be reached."""
    parts = [results.FINAL_REPORT.with_suffix(".md").read_text(encoding="utf-8")] if is_judged else []
    text = "\n\n".join([*parts, results.markdown(states)])
    with contextlib.suppress(Exception):
        create_markdown_artifact(text, key="pipeline", description="The verdict, the stages and their results")


def stage_flow(stage: str) -> Any:
    """Return the flow of a stage. The file has the stage's name; all training stages share one flow."""
    name = command.TRAINING if params.is_training(stage) else stage
    return getattr(importlib.import_module(f"flows.{name}"), name)


def run_if_stale(to: str | None, as_json: bool = False) -> None:
    """Run the pipeline if a stage is stale, then print the results. Raises what a stage raises."""
    start, start_time = time.perf_counter(), time.time()
    params.check_names()
    params.check_blocks([stage.name for stage in pipeline_stages.read_stages()])
    states: dict[str, str] = {}
    try:
        if (stale := versioning.stale(to)) or is_unjudged():
            with contextlib.ExitStack() as stack:

                def check() -> None:
                    stack.enter_context(_compiling_ahead(check_params(to, stale), stale))

                states = embedded.flow_run(check, lambda: pipeline(to))
            results.record_pipeline(states)
        elif not as_json:
            print("Everything is up to date.")
    except GateFailed:  # after the report was written
        stages = versioning.stages(to)
        states = results.ran_since(start_time, stages) | {EVALUATION: "run"}
        results.show(stages, states, time.perf_counter() - start, as_json)
        raise
    results.show(versioning.stages(to), states, time.perf_counter() - start, as_json)
    if not as_json:
        results.show_places()


def check_params(to: str | None, stale: list[str]) -> dict[str, Any]:
    """Return the params of the stages.

    Raises BadParams or BadInput for what would fail later: wrong params, and files that cannot be found or read.
    """
    from tasks import compiled  # imports numba

    with compiled.deferred():
        checked = params.load_all(versioning.stages(to))
    if EVALUATION in checked:
        params.load("promotion")
    for stage in (INGESTION, EVALUATION):
        if stage in stale:
            params.check_files(stage, checked[stage])
    return dict(checked)


def _compiling_ahead(checked: Mapping[str, Any], stale: list[str]) -> contextlib.AbstractContextManager[None]:
    """Compile what the stale stages need in a process of its own. A training stage needs both cores itself."""
    if not stale or params.is_training(stale[0]):
        return contextlib.nullcontext()
    caches = [checked[stage].torch_cache() for stage in stale if hasattr(checked[stage], "torch_cache")]
    return precompilation.ahead(stale, next(filter(None, caches), None))


def _tags(session: spool.Session) -> dict[str, str]:
    commit = contents.save_experiment(f"{session.name}-{session.id}")
    flow_run = {"prefect.flow_run_id": str(runtime.flow_run.id)}
    return {**flow_run, "dvc.experiment": commit} if commit else flow_run


def main() -> int:
    """Run the command and return its exit code."""
    arguments = command.flow_arguments(command.PIPELINE)
    return command.guarded(lambda: run_if_stale(arguments.to, arguments.json))


if __name__ == "__main__":
    sys.exit(main())
