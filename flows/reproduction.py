"""Repeat a run in a scratch folder and compare the hashes of its outputs, or return to its data and models.

RUN is the id of a run in MLflow, of a stage or of a pipeline, or its first eight characters. Without --restore, a work
tree of the code, params and inputs of the run is made in a scratch folder, its stages run there again, and the hashes
of their outputs are compared with those of the run. With --restore, params, data, deliveries, models and reports of
this project become those of the run; the present state is kept as an experiment before, and code stays as it is.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flows.runtime import arguments, artifact_checks, command, tracked_runs, versioning
from flows.runtime.tracked_runs import StageRun
from flows.versions import contents
from tasks.deliveries import tasks as deliveries
from tasks.errors import BadInput

SERVERS = ("PREFECT_", "MLFLOW_", "DVC_")  # variables that name servers and databases of this project
DIFFERENT = 1  # the exit code if a hash differs


@dataclass(frozen=True)
class Output:
    """The hash of an output in the run and in its repetition."""

    stage: str
    path: str
    expected: str
    actual: str


def state_of(run: StageRun) -> str:
    """Return the commit with the state after a run. Raises BadInput if there is none."""
    hashes = [md5 for tag, md5 in run.tags.items() if tag.startswith("dvc.out.")]
    commit = tracked_runs.experiment_of(run) or next(filter(None, map(contents.commit_with, hashes)), "")
    if not commit:
        raise BadInput(
            f"No commit contains the dvc.lock of run {run.run_id}. Runs of `python -m flows.pipeline` make one in a "
            "git repository that has a commit; after `dvc repro`, commit dvc.lock."
        )
    return commit


def stages_of(run: StageRun) -> list[str]:
    """Return the stage of a run, or those that a pipeline ran, in their order."""
    ran = [stage for stage in versioning.stages() if run.tags.get(f"stage.{stage}") == "run"]
    return ran or [run.stage]


def repeat(run: StageRun, folder: Path) -> list[Output]:
    """Repeat the stages of a run in `folder` and return the hashes of their outputs. Raises BadInput if one fails."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(SERVERS)}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', '')}"
    commit = state_of(run)
    with work_tree(commit, folder):
        expected = artifact_checks.locked_outs(folder / versioning.LOCK)
        # Of the raw files that git does not have, the deliveries of that time, and all others as they are now.
        others = shutil.ignore_patterns(f"{deliveries.PREFIX}*")
        shutil.copytree("data/raw", folder / "data/raw", dirs_exist_ok=True, ignore=others)
        own = deliveries.copy_dvc_files(contents.content_at(commit, contents.DELIVERIES), folder)
        _call(folder, variables, "dvc", "checkout", "--force", *expected, *own)
        for stage in stages_of(run):
            print(f"{stage} ...", file=sys.stderr, flush=True)
            _call(folder, variables, "dvc", "repro", "--force", "--single-item", stage)
        actual = artifact_checks.locked_outs(folder / versioning.LOCK)
    return [
        Output(stage, path, md5, actual.get(stage, {}).get(path, ""))
        for stage in stages_of(run)
        for path, md5 in expected.get(stage, {}).items()
    ]


@contextmanager
def work_tree(commit: str, folder: Path) -> Iterator[None]:
    """Make a work tree of `commit` in `folder` that shares DVC's cache; forget it, but keep its files, after the block.

    Raises BadInput if git cannot make it.
    """
    subprocess.run(["git", "worktree", "add", "--detach", "--force", str(folder), commit], capture_output=True)
    if not (folder / versioning.LOCK).is_file():
        raise BadInput(f"git cannot make a work tree of commit {commit[:12]} in {folder}, or it has no dvc.lock.")
    config = folder / ".dvc" / "config.local"
    config.write_text(f"[cache]\n    dir = {Path('.dvc/cache').resolve()}\n", encoding="utf-8")
    try:
        yield
    finally:
        (folder / ".git").unlink(missing_ok=True)
        subprocess.run(["git", "worktree", "prune"], capture_output=True)


def _call(folder: Path, variables: dict[str, str], *arguments: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=variables, capture_output=True, text=True
    )
    if process.returncode:
        lines = f"{process.stdout}{process.stderr}".strip().splitlines()[-20:]
        raise BadInput("\n".join([f"`{' '.join(arguments)}` in {folder} failed:", *lines]))


def restore(run: StageRun) -> list[str]:
    """Return to the data and models of a run; return the stages that are stale then. Raises BadInput."""
    commit = state_of(run)
    deliveries.activate(contents.content_at(commit, contents.DELIVERIES), contents.bring_back)
    return contents.restore_state(commit, [])


def main() -> int:
    """Run the command and return its exit code: 1 if an output differs."""
    parser = arguments.parser("flows.reproduction", __doc__)
    parser.add_argument("run", metavar="RUN", help="the id of a run in MLflow, or its first eight characters")
    parser.add_argument("--restore", action="store_true", help="return to the data and models of the run")
    parser.add_argument("--folder", type=Path, help="the scratch folder (default: a new one in the temporary folder)")
    arguments.add_json(parser)
    parsed = parser.parse_args()
    different: list[Output] = []

    def work() -> None:
        with arguments.naming_input():
            run = tracked_runs.run_with_id(parsed.run)
        if parsed.restore:
            _show_restored(restore(run), parsed.json)
            return
        folder = parsed.folder or Path(tempfile.mkdtemp(prefix="reproduction-"))
        outputs = repeat(run, folder)
        different.extend(output for output in outputs if output.expected != output.actual)
        if parsed.json:
            print(json.dumps({"folder": str(folder), "outputs": [asdict(output) for output in outputs]}, indent=1))
            return
        for output in outputs:
            word = "equal    " if output.expected == output.actual else "different"
            print(f"{word}  {output.stage}  {output.path}  {output.expected}  {output.actual}")
        print(f"{len(outputs) - len(different)} of {len(outputs)} outputs are equal; the folder is {folder}")

    return command.guarded(work) or (DIFFERENT if different else 0)


def _show_restored(stale: list[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"stale": stale}))
        return
    print("Params, data, models and reports are those of the run.")
    if stale:
        print(f"Stale, because code or raw files differ from those of the run: {', '.join(stale)}.")


if __name__ == "__main__":
    sys.exit(main())
