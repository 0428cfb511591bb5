"""The whole journey: DVC walks dvc.yaml and says what is stale; each stale stage is a nested flow run of this one."""

import argparse
import sys
import time

from prefect import flow, runtime

from flows.runtime import command, embedded, params, results, spool, tracking, versioning
from tasks.errors import GateFailed


@flow(name="pipeline", flow_run_name="pipeline")
def pipeline(to: str | None = None) -> dict[str, str]:
    """Bring every stage, or those that `to` needs, up to date; how each that changed did so: "run" or "restored"."""
    session, changed = spool.Session("pipeline"), dict[str, str]()
    checked = params.load_all(versioning.stages(to))

    def run(versions: versioning.Versions) -> None:
        command.run(versions, session)
        changed[versions.stage] = "run"

    def restored(versions: versioning.Versions) -> None:
        tags = versions.tags() | versions.out_tags()
        session.note_restored(versions.stage, params.flatten(checked[versions.stage]), tags)
        changed[versions.stage] = "restored"

    with tracking.following(), session.closed(lambda: _tags(session)):
        versioning.reproduce(run, restored, to)
    return changed


def _tags(session: spool.Session) -> dict[str, str]:
    commit = versioning.save_experiment(f"{session.name}-{session.id}")
    flow_run = {"prefect.flow_run_id": str(runtime.flow_run.id)}
    return {**flow_run, "dvc.experiment": commit} if commit else flow_run


def main() -> None:
    """`python -m flows.pipeline [--to STAGE]`."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.add_argument("--to", metavar="STAGE", help="stop when this stage is up to date")
    to = parser.parse_args().to
    sys.exit(command.guarded(lambda: journey(to)))


def journey(to: str | None) -> None:
    """Run the pipeline if anything is stale, then print what came out."""
    start = time.perf_counter()
    params.check_names()
    ran: dict[str, str] = {}
    if versioning.stale(to):
        try:
            ran = embedded.flow_run(lambda: params.load_all(versioning.stages(to)), lambda: pipeline(to))
        except GateFailed:
            results.show(versioning.stages(to), {}, time.perf_counter() - start)
            raise
    else:
        print("Everything is up to date.")
    results.show(versioning.stages(to), ran, time.perf_counter() - start)
    results.show_places()


if __name__ == "__main__":
    main()
