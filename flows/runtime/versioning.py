"""The order of the stages, which of them are stale, and the inputs of a run. Only this file and flows/versions use DVC.

`dvc.stage.run.cmd_run` and the attributes of `Stage` are internals of DVC: pyproject.toml pins the version, and
tests/flows/runtime/test_versioning.py checks what we rely on.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flows.runtime import artifact_checks
from flows.versions import previous_outputs
from tasks import catalog
from tasks.errors import BadInput, BadParams

OUR_COMMAND = re.compile(r"python -m flows\.(?P<module>\w+)(?: (?P<stage>\w+))?")
PARAMS, LOCK = "params.yaml", "dvc.lock"
MODELS = "data/models/"
DATA = "data"  # the folder whose files stages write, and whose bytes are compared with dvc.lock
NAMES = "surrogateescape"  # git prints the bytes of file names, which need not be UTF-8
WRITTEN_BY_RUNS = (":!dvc.lock", ":!data")  # these paths do not make a work tree dirty, because a run writes them


class Versions:
    """The versions of what one stage reads and writes: DVC's hashes of its deps and, where they exist, its outs."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage
        self.stage = str(stage.name)
        self.deps = {dep.def_path: str(dep.hash_info.value) for dep in stage.deps}

    @property
    def key(self) -> str:
        """Return a short hash of everything that the stage depends on: its command, its params and its deps."""
        body = json.dumps([self._stage.cmd, self.deps], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    def untracked(self, paths: Iterable[str]) -> list[str]:
        """The files and folders behind `paths` that exist and that no dep or out of the stage contains.

        Of a glob it is the folder, because DVC knows no globs.
        """
        tracked = {*self.deps, *(out.def_path for out in self._stage.outs)}
        fixed_parts = dict.fromkeys(re.split(r"/[^/]*[*?\[]", path)[0] for path in paths)
        existing = {path: Path(os.path.relpath(path)) for path in fixed_parts if Path(path).exists()}
        return [path for path, own in existing.items() if not any(str(part) in tracked for part in (own, *own.parents))]

    def verify_inputs(self) -> None:
        """Compare the data that the stage reads with dvc.lock; restore damaged files. Raises BadInput if it cannot."""
        paths = [dep.fs_path for dep in self._stage.deps if dep.def_path.startswith(DATA)]
        artifact_checks.verify(self._stage.repo, paths)

    def verify_restored(self) -> None:
        """Compare the outputs that DVC took from its cache with their hashes. Raises BadInput if one is damaged."""
        damaged = [oid for out in self._stage.outs for oid in artifact_checks.remove_damaged_objects(out)]
        if damaged:
            raise BadInput(
                f"objects of DVC's cache for the stage {self.stage} were damaged on the disk and are removed "
                f"({len(damaged)}, such as {damaged[0]}). Run the command again: it fetches them or makes them anew."
            )

    @contextmanager
    def replacing_outputs(self) -> Iterator[None]:
        """Keep the outputs aside while the block writes new ones, where DVC does not run the stage in this process."""
        outs = _paths_of(self._stage)
        previous_outputs.put_aside(self.stage, outs)
        with previous_outputs.put_back_on_failure(self.stage, outs):
            yield

    def out_tags(self) -> dict[str, str]:
        """Return DVC's hashes of what the stage has written: its outs, and the parts of them that other stages read."""
        outs = [out for out in self._stage.outs if out.exists]
        deps = [dep for stage in self._stage.repo.index.stages for dep in stage.deps if dep.exists]
        parts = [dep for dep in deps for out in outs if dep.def_path.startswith(f"{out.def_path}/")]
        return {f"dvc.out.{path.def_path}": str(path.get_hash().value) for path in [*outs, *parts]}

    def tags(self) -> dict[str, str]:
        """Return the hashes of the deps, the git commit, and whether the work tree differs from it."""
        deps = {f"dvc.dep.{path}": md5 for path, md5 in self.deps.items() if path != PARAMS}
        commit = run_git("rev-parse", "HEAD")
        dirty = str(bool(run_git("status", "--porcelain", "--", ".", *WRITTEN_BY_RUNS))).lower()
        return {**deps, "mlflow.source.git.commit": commit, "git.dirty": dirty} if commit else deps


Run = Callable[[Versions], None]


def stages(to: str | None = None) -> list[str]:
    """Return the stages of dvc.yaml, each after those that it needs; with `to`, those that `to` needs and itself."""
    with open_repo() as repo:
        return [stage.name for stage in plan(repo, to)]


def stale(to: str | None = None) -> list[str]:
    """Return the stages whose code, input, params or output differ from dvc.lock.

    Stages that depend on these may be stale too.
    """
    with open_repo() as repo, repo.lock:
        return [stage.name for stage in plan(repo, to) if stage.changed()]


def reproduce(
    run: Run,
    restore: Run,
    to: str | None = None,
    committed: Callable[[str], None] | None = None,
    start: str | None = None,
    force: bool = False,
) -> None:
    """Let DVC bring the stages up to date, calling `run` where it would start one of our commands.

    `committed` is called with the name of such a stage when its outputs are in the cache and in dvc.lock, and `restore`
    for each stage whose results DVC took from its cache instead. start: leave out the stages before this one, stale or
    not. force: run stages that are up to date, too. Exceptions of `run` are raised unchanged. Raises
    BadInput for errors of DVC.
    """
    from dvc.repo.reproduce import _reproduce_stage

    ran: set[str] = set()

    def reproduce_stage(stage: Any, **options: Any) -> Any:
        if not _is_of_pipeline(stage):
            return _reproduce_stage(stage, **options)
        with previous_outputs.put_back_on_failure(stage.name, _paths_of(stage)):
            changed = _reproduce_stage(stage, **options)
        if changed and stage.name in ran and committed:
            committed(stage.name)
        elif changed and stage.name not in ran:
            versions = Versions(stage)
            versions.verify_restored()
            restore(versions)
        return changed

    def run_and_remember(versions: Versions) -> None:
        ran.add(versions.stage)
        run(versions)

    with open_repo() as repo, _replaced_commands(run_and_remember):
        from dvc.exceptions import ReproductionError

        with repo.lock:  # otherwise another process may be running these stages
            for stage in repo.index.stages:
                if _is_of_pipeline(stage) and stage.name in previous_outputs.stages():
                    previous_outputs.put_back(stage.name, _paths_of(stage))
        stages_to_run = plan(repo, to)
        _refuse_missing(stages_to_run)
        names = [stage.name for stage in stages_to_run]
        if start and start not in names:
            raise BadParams(
                f"start: no stage {start!r} that {to or 'the pipeline'} needs; {catalog.suggest(start, names)}"
            )
        targets = names[names.index(start) :] if start else to
        try:
            repo.reproduce(targets, repro_fn=reproduce_stage, single_item=bool(start), force=force)
        except ReproductionError as error:
            raise error.__cause__ or error from None


@contextmanager
def current(name: str) -> Iterator[Versions]:
    """Yield the present versions of a stage, for a run that DVC has not started in this process."""
    with open_repo() as repo:
        stage = _find(repo, name)
        stage.save_deps(allow_missing=True)
        yield Versions(stage)


def run_git(*arguments: str, text: str | None = None, **environment: str) -> str:
    """Return the output of git, which reads `text`; empty if it fails or is not installed."""
    variables = {**os.environ, **environment}
    try:
        process = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, input=text, env=variables, errors=NAMES
        )
    except OSError:
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""


@contextmanager
def open_repo() -> Iterator[Any]:
    """Yield the DVC project of the current folder; errors of DVC become BadInput."""
    from dvc.exceptions import DvcException, ReproductionError
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.rwlock import RWLockFileCorruptedError

    logging.getLogger("dvc").setLevel(logging.WARNING)  # without "Updating lock file" for each stage
    try:
        with Repo() as repo:
            yield repo
    except ReproductionError:
        raise
    except RWLockFileCorruptedError as error:
        raise BadInput(
            f"DVC: {error}. A command was killed while it wrote this file. If no other command runs in this project, "
            "remove the file and run the command again."
        ) from error
    except LockError as error:
        raise BadInput(f"{_holder_of_the_lock()} Run this command again when it has ended.") from error
    except DvcException as error:
        raise BadInput(f"DVC: {error}") from error


def _holder_of_the_lock() -> str:
    """Return a sentence about the process that works in this project."""
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int(Path(".dvc/tmp/lock").read_text(encoding="utf-8").split()[0]))
        return f"Another command works in this project: process {process.pid}, `{' '.join(process.cmdline())}`."
    return "Another command works in this project."


@contextmanager
def _replaced_commands(run: Run) -> Iterator[None]:
    """Make DVC call `run` in this process for our stages while the block lasts; it runs other commands as usual."""
    import dvc.stage.run as dvc_run
    from dvc.stage import Stage

    original, original_remove = dvc_run.cmd_run, Stage.remove_outs

    def remove_outs(stage: Any, ignore_remove: bool = False, force: bool = False) -> None:
        if _is_of_pipeline(stage):
            previous_outputs.put_aside(stage.name, _paths_of(stage))
        original_remove(stage, ignore_remove=ignore_remove, force=force)

    def cmd_run(stage: Any, dry: bool = False, run_env: dict[str, str] | None = None) -> None:
        match = OUR_COMMAND.fullmatch(stage.cmd) if isinstance(stage.cmd, str) else None
        if dry or match is None or (match["stage"] or match["module"]) != stage.name:
            original(stage, dry=dry, run_env=run_env)
        else:
            run(Versions(stage))

    dvc_run.cmd_run, Stage.remove_outs = cmd_run, remove_outs
    try:
        yield
    finally:
        dvc_run.cmd_run, Stage.remove_outs = original, original_remove


def plan(repo: Any, to: str | None) -> list[Any]:
    """The stages of the open project, in their order; with `to`, those that `to` needs and itself."""
    from dvc.repo.reproduce import plan_repro

    targets = [_find(repo, to)] if to else [stage for stage in repo.index.stages if _is_of_pipeline(stage)]
    return [stage for stage in plan_repro(repo.index.graph, targets) if _is_of_pipeline(stage)]


def _refuse_missing(stages_to_run: list[Any]) -> None:
    """Raise BadInput if a stage depends on a file that does not exist and that none of these stages writes."""
    outs = [out.fs_path for stage in stages_to_run for out in stage.outs]
    for stage in stages_to_run:
        for dep in stage.deps:
            if not dep.exists and not any(Path(dep.fs_path).is_relative_to(path) for path in outs):
                raise BadInput(
                    f"{dep.def_path} is missing, but the stage {stage.name} of dvc.yaml depends on it. Restore it "
                    f"(`git checkout -- {dep.def_path}` or `dvc checkout`), or remove the line from dvc.yaml."
                )


def _paths_of(stage: Any) -> list[str]:
    return [os.path.relpath(out.fs_path) for out in stage.outs]


def _find(repo: Any, name: str) -> Any:
    stages = {stage.name: stage for stage in repo.index.stages if _is_of_pipeline(stage)}
    if name not in stages:
        raise BadParams(f"dvc.yaml has no stage {name!r}; {catalog.suggest(name, stages)}")
    return stages[name]


def _is_of_pipeline(stage: Any) -> bool:
    """Whether `stage` is a stage of dvc.yaml, and not a file that was added with `dvc add`."""
    return getattr(stage, "name", None) is not None
