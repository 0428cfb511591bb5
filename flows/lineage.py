"""Show which runs and raw data a registered model comes from, and the commands that reproduce it.

The answer comes from MLflow: each run has tags with the DVC hashes of what it read and wrote.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from flows.runtime import arguments, command, params, tracked_runs
from flows.runtime.environment import home
from flows.runtime.tracked_runs import StageRun
from flows.versions import contents
from tasks import promotion
from tasks.errors import BadParams

FORMS = "NAME, NAME/VERSION or NAME@ALIAS of a registered model, such as ppo/3, or champion or candidate"


@dataclass(frozen=True)
class Input:
    """A file or folder that a run read. `run_id`: the run that wrote it, if any."""

    path: str
    md5: str
    run_id: str | None


@dataclass(frozen=True)
class RunInputs:
    """A run of a stage and what it read. `level`: the number of runs between it and the model."""

    stage: str
    run_id: str
    start: str
    level: int
    inputs: list[Input]


@dataclass(frozen=True)
class Lineage:
    """A version of a model, the runs behind it (its own first), its code and how to reproduce it."""

    model: str
    version: str
    runs: list[RunInputs]
    git_commit: str
    uncommitted_changes: bool
    prefect_flow_run: str
    mlflow_run: str
    restore_commands: list[str]  # they restore code, params and model; empty if no commit contains its dvc.lock
    rerun_command: str

    @property
    def raw_data(self) -> list[str]:
        """The paths of data that no run wrote."""
        paths = [item.path for run in self.runs for item in run.inputs if item.run_id is None]
        return [path for path in dict.fromkeys(paths) if path.startswith("data/")]


def trace(model: str) -> Lineage:
    """The lineage of `model` as FORMS describes it. Raises BadInput, BadParams."""
    if model in (promotion.CHAMPION, promotion.CANDIDATE):
        promoted: Any = params.load("promotion")
        model = f"{promoted.name}@{model}"
    name, _, version = model.removeprefix("models:/").partition("/")
    name, _, alias = name.partition("@")
    if version and (alias or not version.isdigit()):
        raise BadParams(f"expected {FORMS}, received {model!r}")
    run = tracked_runs.run_of_model(name, tracked_runs.version_of_alias(name, alias) if alias else version or None)
    folder = f"data/models/{run.stage}"
    commit = run.tags.get("dvc.experiment") or contents.commit_with(run.tags[f"dvc.out.{folder}"])
    copy = f"../{home().name}-{commit[:8]}"
    return Lineage(
        name,
        run.model_version,
        list(_walk(run, 0, set())),
        run.tags.get("mlflow.source.git.commit", "unknown"),
        run.tags.get("git.dirty") == "true",
        run.tags.get("prefect.flow_run_id", "unknown"),
        run.run_id,
        [
            f"git worktree add --detach {copy} {commit} && cd {copy}",
            f"dvc cache dir --local {home() / '.dvc' / 'cache'} && dvc checkout {folder}",
        ]
        if commit
        else [],
        f"dvc repro --force {run.stage}",
    )


def _walk(run: StageRun, level: int, visited: set[str]) -> Iterator[RunInputs]:
    """The run, then the runs that wrote its inputs, depth first and each once."""
    if run.run_id in visited:
        return
    visited.add(run.run_id)
    writers = {path: tracked_runs.run_that_wrote(path, md5, run.start) for path, md5 in _data_deps(run)}
    inputs = [Input(path, md5, writer.run_id if (writer := writers[path]) else None) for path, md5 in _data_deps(run)]
    start = datetime.fromtimestamp(run.start / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    yield RunInputs(run.stage, run.run_id, start, level, inputs)
    for writer in writers.values():
        if writer:
            yield from _walk(writer, level + 1, visited)


def _data_deps(run: StageRun) -> list[tuple[str, str]]:
    """(path, md5) of the data that the run read; its code is identified by the commit."""
    deps = {key.removeprefix("dvc.dep."): md5 for key, md5 in run.tags.items() if key.startswith("dvc.dep.")}
    return sorted((path, md5) for path, md5 in deps.items() if not path.startswith(("flows/", "tasks/")))


def show(lineage: Lineage) -> None:
    """Print a lineage for people to read."""
    stages = {run.run_id: run.stage for run in lineage.runs}
    print(f"{lineage.model} version {lineage.version}")
    for run in lineage.runs:
        indent = "  " * run.level
        print(f"{indent}{run.stage}  run {run.run_id[:8]}, {run.start}")
        for item in run.inputs:
            origin = f"from {stages[item.run_id]}, run {item.run_id[:8]}" if item.run_id else "not written by a run"
            print(f"{indent}  {item.path}  md5 {item.md5}  <- {origin}")
    changes = " with uncommitted changes" if lineage.uncommitted_changes else ""
    print(f"\ncode: git commit {lineage.git_commit}{changes}")
    print(f"Prefect flow run {lineage.prefect_flow_run}, MLflow run {lineage.mlflow_run}")
    if not lineage.restore_commands:
        print("\nNo commit contains the dvc.lock of this model. Commit dvc.lock now if it is still that of the model.")
        return
    print("\nTo restore the code, params and dvc.lock of this model, and the model from DVC's cache:")
    for line in lineage.restore_commands:
        print(f"  {line}")
    print(f"To train it again there, with the raw data above ({', '.join(lineage.raw_data)}):")
    print(f"  {lineage.rerun_command}")


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.lineage", __doc__)
    parser.add_argument("model", metavar="MODEL", help=FORMS)
    arguments.add_json(parser)
    args = parser.parse_args()

    def work() -> None:
        with arguments.naming_input():
            lineage = trace(args.model)
        if args.json:
            print(json.dumps(asdict(lineage) | {"raw_data": lineage.raw_data}))
        else:
            show(lineage)

    return command.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
