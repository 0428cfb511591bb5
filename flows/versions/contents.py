"""Versions of files, stages aside: what git and DVC's cache keep, and how it comes back.

It uses the DVC project of `flows.runtime.versioning`.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.runtime import artifact_checks
from flows.runtime.versioning import DATA, LOCK, MODELS, PARAMS, open_repo, plan, run_git, stages, stale
from tasks.errors import BadInput

DELIVERIES = "data/deliveries.json"  # which deliveries were active is part of the state of an experiment


def add(path: str, *, push: bool = False) -> str:
    """Let DVC keep a file or folder that no stage writes (`dvc add`), also in the remote, if one is set and `push`.

    Returns its hash.
    """
    with open_repo() as repo:
        (stage,) = repo.add(path)
        if push and repo.config["core"].get("remote"):
            repo.push(targets=[f"{path}.dvc"])
        return str(stage.outs[0].hash_info.value)


def bring_back(paths: list[str]) -> None:
    """Write what `add` has stored, or outputs of stages, as their .dvc files and dvc.lock say. Raises BadInput."""
    with open_repo() as repo:
        if repo.config["core"].get("remote"):
            repo.fetch(targets=paths)
        repo.checkout(targets=paths, force=True)
        outs = [out for path in paths for stage in repo.stage.collect(path) for out in stage.outs]
        if damaged := [oid for out in outs for oid in artifact_checks.remove_damaged_objects(out)]:
            raise BadInput(
                f"objects of DVC's cache were damaged and are removed ({len(damaged)}, such as {damaged[0]}). "
                "Run the command again: it fetches them from the remote, if one is set."
            )


def restore_state(commit: str, files: list[str]) -> list[str]:
    """Make params, dvc.lock, reports and outputs those of `commit`; return the stages that are stale then.

    The present state is kept in an experiment before. files: further files to take from the commit, where it has them.
    """
    save_experiment(f"before-restoring-{commit[:8]}-{time.time_ns()}")
    reports = run_git("ls-tree", "-r", "--name-only", commit, "--", f"{DATA}/reports").split("\n")
    for path in filter(None, [PARAMS, LOCK, *reports, *files]):
        if text := content_at(commit, path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text, encoding="utf-8")
    bring_back([stage for stage in stages() if artifact_checks.locked_outs(Path(LOCK)).get(stage)])
    return stale()


def content_at(commit: str, path: str) -> str:
    """Return the text of a file at a commit; empty if the commit does not have it."""
    text = run_git("show", f"{commit}:{path}")
    return f"{text}\n" if text else ""


def set_param(name: str, value: Any) -> None:
    """Change one value of params.yaml, whose comments stay. name: its keys, separated by dots."""
    from dvc.utils.serialize import modify_yaml

    *sections, key = name.split(".")
    with modify_yaml(PARAMS) as body:
        for section in sections:
            body = body.setdefault(section, {})
        body[key] = value


def models_trained_on(path: str) -> list[str]:
    """Return the stages that train a model on `path`, or from such a model, in the order of dvc.yaml."""
    read, trained = {path}, []
    with open_repo() as repo:
        for stage in plan(repo, None):
            models = [out.def_path for out in stage.outs if out.def_path.startswith(MODELS)]
            if models and any(Path(part).is_relative_to(dep.def_path) for dep in stage.deps for part in read):
                read |= set(models)
                trained.append(str(stage.name))
    return trained


def save_experiment(name: str, more_files: Sequence[str] = ()) -> str | None:
    """Commit the work tree to a DVC experiment, without a change of branch, index or files. more_files: new ones, too.

    It contains the files that git knows, dvc.lock and the reports of the stages. Other files, such as .env, may contain
    secrets. `dvc exp save` makes the same commit, but stashes and restores the work tree meanwhile. Returns the id of
    the commit; None if git has no commit yet.
    """
    head = run_git("rev-parse", "HEAD")
    if not head:
        return None
    with tempfile.TemporaryDirectory() as folder:
        own_index = {"GIT_INDEX_FILE": f"{folder}/index"}
        run_git("read-tree", head, **own_index)
        run_git("add", "--update", ":/", **own_index)
        added = [
            path for path in run_git("ls-files", "-z").split("\0") if path and Path(path).is_file()
        ]  # by `git add`
        run_git(
            "update-index",
            "--add",
            "-z",
            "--stdin",
            text="\0".join([*added, *_outputs_inrun_git(), *more_files]),
            **own_index,
        )
        tree = run_git("write-tree", **own_index)
    commit = run_git("commit-tree", tree, "-p", head, "-m", f"athanor: {name}", **_identity())
    run_git("update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
    return commit


def copy_of_revision(revision: str, paths: Sequence[str], target: Path) -> bool:
    """Copy `paths`, as they are in a git revision or DVC experiment, below `target`, outputs of stages included.

    Returns False if there is no such revision, or it contains none of `paths`. Raises BadInput for what DVC's cache and
    remotes lack.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError, SCMError

    try:
        files = DVCFileSystem(os.curdir, rev=revision)
        present = [path for path in paths if files.exists(path)]
        for path in present:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            files.get(path, str(target / path), recursive=True)
    except (RevError, SCMError):
        return False
    except (DvcException, OSError) as error:
        if not files.exists("dvc.lock"):
            raise BadInput(
                f"the commit {revision} has no dvc.lock, so that it names no results. Commit dvc.lock after a run, or "
                "name the run as `dvc exp list --all` does."
            ) from error
        raise BadInput(
            f"the revision {revision} cannot be read: {' '.join(str(error).split())}. If DVC's cache lacks its files, "
            f"`dvc fetch --all-commits` gets them from a remote."
        ) from error
    return bool(present)


def head() -> str:
    """Return the commit of git that the work tree is based on; empty if there is none."""
    return run_git("rev-parse", "HEAD")


def commit_with(md5: str) -> str:
    """Return the first commit, of branches and experiments, whose dvc.lock contains `md5`; empty if there is none."""
    return run_git("log", "--all", "--reverse", "--format=%H", "-S", md5, "--", "dvc.lock").split("\n")[0]


def _identity() -> dict[str, str]:
    """Return variables with an author if the user has set none, because git refuses to commit without one."""
    if run_git("config", "user.email"):
        return {}
    return {f"GIT_{role}_{part}": "athanor" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}


def _outputs_inrun_git() -> list[str]:
    """Return dvc.lock and the outputs of stages that DVC leaves to git, as far as these files exist."""
    with open_repo() as repo:
        outs = [out for stage in repo.index.stages for out in stage.outs if not out.use_cache]
        paths = [LOCK, DELIVERIES, *(os.path.relpath(out.fs_path) for out in outs)]
    return [path for path in paths if Path(path).is_file()]
