"""From a registered model back to the raw sources, and how to make it again: python -m flows.lineage ppo [or ppo/3]."""

import sys
from datetime import UTC, datetime

from flows.runtime import command, tracked_runs, versioning
from flows.runtime.environment import home
from tasks.errors import BadParams


def show(model: str) -> None:
    """Print where `model` ("name" or "name/version") comes from. Raises BadInput, BadParams."""
    name, _, version = model.removeprefix("models:/").partition("/")
    if version and not version.isdigit():
        raise BadParams(f"{model!r}: expected NAME or NAME/VERSION, such as ppo/3")
    made = tracked_runs.run_of_model(name, version or None)
    print(f"{name} version {made.model_version}")
    outside = _show_run(made, set(), 0)
    _show_commands(made, [path for path in outside if path.startswith("data/")])


def _show_run(made: tracked_runs.StageRun, seen: set[str], depth: int) -> list[str]:
    """The run and, indented below it, the runs that made what it read; what no run made."""
    pad = "  " * depth
    when = datetime.fromtimestamp(made.start / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    again = " (above)" if made.run_id in seen else ""
    print(f"{pad}{made.stage}  run {made.run_id[:8]}, {when}{again}")
    if again:
        return []
    seen.add(made.run_id)
    outside: list[str] = []
    for path, md5 in _deps(made):
        source = tracked_runs.run_that_wrote(path, md5, made.start)
        known = "" if source else "  <- from outside"
        print(f"{pad}  {path}  md5 {md5}{known}")
        outside += _show_run(source, seen, depth + 2) if source else [path]
    return outside


def _deps(made: tracked_runs.StageRun) -> list[tuple[str, str]]:
    """(path, md5) of what the run read: data; code only counts by the commit."""
    deps = {key.removeprefix("dvc.dep."): md5 for key, md5 in made.tags.items() if key.startswith("dvc.dep.")}
    return sorted((path, md5) for path, md5 in deps.items() if not path.startswith(("flows/", "tasks/")))


def _show_commands(made: tracked_runs.StageRun, outside: list[str]) -> None:
    commit, model = made.tags.get("mlflow.source.git.commit", "unknown"), f"data/models/{made.stage}"
    changed = " with changes that were not committed" if made.tags.get("git.dirty") == "true" else ""
    print(f"\ncode: git commit {commit}{changed}")
    print(f"Prefect flow run {made.tags.get('prefect.flow_run_id', 'unknown')}, MLflow run {made.run_id}")
    origin = made.tags.get("dvc.experiment") or versioning.commit_with(made.tags[f"dvc.out.{model}"])
    if not origin:
        print(
            "\nno commit has the dvc.lock of this model: if it is still here, commit dvc.lock to be able to come back"
        )
        return
    folder = f"../{home().name}-{origin[:8]}"
    print("\nto have these very files (code, params and dvc.lock as they were, the model from DVC's cache):")
    print(f"  git worktree add --detach {folder} {origin} && cd {folder}")
    print(f"  dvc cache dir --local {home() / '.dvc' / 'cache'} && dvc checkout {model}")
    print(f"to make them again there, with {', '.join(outside)} as above:\n  dvc repro --force {made.stage}")


def main() -> None:
    """`python -m flows.lineage MODEL`."""
    if len(sys.argv) != 2:
        raise BadParams("which model? python -m flows.lineage NAME or NAME/VERSION")
    show(sys.argv[1])


if __name__ == "__main__":
    sys.exit(command.guarded(main))
