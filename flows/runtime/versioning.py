"""The one file that knows DVC (and git): the order of the stages, what is stale, and what went into a run.

`dvc.stage.run.cmd_run` and the shape of `Stage` are DVC's internals: pyproject.toml pins the version,
tests/flows/test_versioning.py keeps the contract.
"""

import hashlib
import json
import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.errors import BadInput, BadParams

OUR_COMMAND = re.compile(r"python -m flows\.(?P<module>\w+)(?: (?P<stage>\w+))?")
PARAMS = "params.yaml"

NOT_OUR_CHANGES = (":!dvc.lock", ":!data")  # a run writes these itself
MAX_UNTRACKED_BYTES = 1 << 20  # a larger file that git does not know is data, not code


class Versions:
    """What one stage is made of: the hashes of its deps now, and of its outs when they are there."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage
        self.stage = str(stage.name)
        self.deps = {dep.def_path: str(dep.hash_info.value) for dep in stage.deps}

    @property
    def key(self) -> str:
        """A short name for all that goes into the stage: command, params and content of the deps."""
        body = json.dumps([self._stage.cmd, self.deps], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]

    def unseen(self, path: str) -> bool:
        """Whether `path` (a file, folder or glob here) exists, and a change in it would go unnoticed."""
        whole = re.split(r"[*?\[]", path)[0]
        seen = {*self.deps, *(out.def_path for out in self._stage.outs)}
        here = Path(os.path.relpath(whole))
        return Path(whole).exists() and not any(str(above) in seen for above in (here, *here.parents))

    def out_tags(self) -> dict[str, str]:
        """What ties a run to what it has written, whole and in the parts that others read: DVC's hashes."""
        outs = [out for out in self._stage.outs if out.exists]
        others = [dep for other in self._stage.repo.index.stages for dep in other.deps if dep.exists]
        parts = [dep for dep in others for out in outs if dep.def_path.startswith(f"{out.def_path}/")]
        return {f"dvc.out.{path.def_path}": str(path.get_hash().value) for path in [*outs, *parts]}

    def tags(self) -> dict[str, str]:
        """What ties a run to its data and code."""
        deps = {f"dvc.dep.{path}": md5 for path, md5 in self.deps.items() if path != PARAMS}
        commit = _git("rev-parse", "HEAD")
        dirty = str(bool(_git("status", "--porcelain", "--", ".", *NOT_OUR_CHANGES))).lower()
        return {**deps, "mlflow.source.git.commit": commit, "git.dirty": dirty} if commit else deps


Run = Callable[[Versions], None]


def stages(to: str | None = None) -> list[str]:
    """The stages of dvc.yaml, each after what it needs; with `to`, those that `to` needs and itself."""
    with _repo() as repo:
        return [stage.name for stage in _plan(repo, to)]


def stale(to: str | None = None) -> list[str]:
    """The stages whose code, input, params or output is not what dvc.lock says (their followers may be stale too)."""
    with _repo() as repo, repo.lock:
        return [stage.name for stage in _plan(repo, to) if stage.changed()]


def reproduce(run: Run, restored: Run, to: str | None = None) -> None:
    """Let DVC bring the stages up to date, calling `run` where it would start one of our commands.

    `restored` is called at the end for each stage whose results DVC took from its cache instead. Whatever `run` raises
    is raised here. Raises BadInput for what DVC cannot do.
    """
    ran: set[str] = set()

    def noting(versions: Versions) -> None:
        ran.add(versions.stage)
        run(versions)

    with _repo() as repo, _commands_replaced(noting):
        from dvc.exceptions import ReproductionError

        _refuse_missing(_plan(repo, to))
        try:
            changed = repo.reproduce(to)
        except ReproductionError as error:
            raise error.__cause__ or error from None
        for stage in changed:
            if _is_of_pipeline(stage) and stage.name not in ran:
                restored(Versions(stage))


@contextmanager
def opened(stage: str) -> Iterator[Versions]:
    """The versions of `stage` as they are now, for a run that DVC does not lead."""
    with _repo() as repo:
        found = _find(repo, stage)
        found.save_deps(allow_missing=True)
        yield Versions(found)


def save_experiment(name: str) -> str | None:
    """Commit the files as they are to a DVC experiment `name`, beside the branch and leaving index and files alone.

    The same as `dvc exp save`, which stashes and restores the working tree. The commit; None where git has none yet.
    """
    head = _git("rev-parse", "HEAD")
    if not head:
        return None
    with tempfile.TemporaryDirectory() as folder:
        aside = {"GIT_INDEX_FILE": f"{folder}/index"}
        _git("read-tree", head, **aside)
        _git("add", "--update", ":/", **aside)
        new = _git("ls-files", "--others", "--exclude-standard", "-z", **aside).split("\0")
        small = [path for path in new if path and Path(path).stat().st_size <= MAX_UNTRACKED_BYTES]
        if small:
            _git("add", "--", *small, **aside)
        tree = _git("write-tree", **aside)
    commit = _git("commit-tree", tree, "-p", head, "-m", f"athanor: {name}", **_identity())
    _git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
    return commit


def commit_with(md5: str) -> str:
    """The first commit, experiments among them, whose dvc.lock names `md5`; empty where there is none."""
    return _git("log", "--all", "--reverse", "--format=%H", "-S", md5, "--", "dvc.lock").split("\n")[0]


def _identity() -> dict[str, str]:
    """Git refuses to commit for nobody, and a fresh machine has no name set."""
    if _git("config", "user.email"):
        return {}
    return {f"GIT_{who}_{what}": "athanor" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def _git(*arguments: str, **environment: str) -> str:
    """What git says; empty where it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, env={**os.environ, **environment})
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def _repo() -> Iterator[Any]:
    """The DVC project here; DVC's complaints become BadInput."""
    from dvc.exceptions import DvcException, ReproductionError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)  # "Updating lock file" nine times tells nobody anything
    try:
        with Repo() as repo:
            yield repo
    except ReproductionError:
        raise
    except DvcException as error:
        raise BadInput(f"DVC: {error}") from error


@contextmanager
def _commands_replaced(run: Run) -> Iterator[None]:
    """While this lasts, DVC runs our stages by `run`, in this process; other commands stay its own."""
    import dvc.stage.run as dvc_run

    original = dvc_run.cmd_run

    def cmd_run(stage: Any, dry: bool = False, run_env: dict[str, str] | None = None) -> None:
        ours = OUR_COMMAND.fullmatch(stage.cmd) if isinstance(stage.cmd, str) else None
        if dry or ours is None or (ours["stage"] or ours["module"]) != stage.name:
            original(stage, dry=dry, run_env=run_env)
        else:
            run(Versions(stage))

    dvc_run.cmd_run = cmd_run
    try:
        yield
    finally:
        dvc_run.cmd_run = original


def _plan(repo: Any, to: str | None) -> list[Any]:
    from dvc.repo.reproduce import plan_repro

    targets = [_find(repo, to)] if to else [stage for stage in repo.index.stages if _is_of_pipeline(stage)]
    return [stage for stage in plan_repro(repo.index.graph, targets) if _is_of_pipeline(stage)]


def _refuse_missing(plan: list[Any]) -> None:
    """Raise BadInput where a stage depends on a file that is not there and that no stage makes."""
    made = [out.fs_path for stage in plan for out in stage.outs]
    for stage in plan:
        for dep in stage.deps:
            if not dep.exists and not any(Path(dep.fs_path).is_relative_to(path) for path in made):
                raise BadInput(
                    f"{dep.def_path} is missing, and dvc.yaml says that {stage.name} depends on it. Bring it back "
                    f"(`git checkout -- {dep.def_path}`, `dvc checkout`), or take the line out of dvc.yaml."
                )


def _find(repo: Any, name: str) -> Any:
    found = {stage.name: stage for stage in repo.index.stages if _is_of_pipeline(stage)}
    if name not in found:
        raise BadParams(f"dvc.yaml has no stage {name!r}; there are: {', '.join(found)}")
    return found[name]


def _is_of_pipeline(stage: Any) -> bool:
    return getattr(stage, "name", None) is not None
