"""Compare the bytes of data files with the hashes in dvc.lock, and replace damaged files by intact copies.

DVC compares size and time of a file, so that it does not notice a flipped bit on the disk, and it trusts the objects in
its cache. The functions work on objects of DVC, but import nothing of it (see flows/runtime/versioning.py).
"""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import BadInput


def verify(repo: Any, paths: Iterable[str]) -> list[str]:
    """Read the files at or below `paths` that stages have written; return those that were damaged and are restored.

    Raises BadInput with the names of files of which neither DVC's cache nor its remote has an intact copy.
    """
    restored, lost = [], []
    for out, file, md5 in _expected_files(repo, [Path(path).absolute() for path in paths]):
        if not file.is_file() or _md5(file) == md5 or _is_modified(repo, file, md5):
            continue
        name = os.path.relpath(file, repo.root_dir)
        if out.use_cache and _restore(repo, out, file, md5):
            print(f"warning: {name} was damaged on the disk; DVC's cache or remote had it intact", file=sys.stderr)
            restored.append(name)
        else:
            lost.append(f"{name} (of the stage {out.stage.name})")
    if lost:
        stages = sorted({text.rsplit(" ", 1)[1].rstrip(")") for text in lost})
        raise BadInput(
            f"damaged on the disk, because their bytes are not those that were written: {', '.join(lost)}. Neither "
            "DVC's cache nor a remote has an intact copy. Write them again: "
            f"dvc repro --force --single-item {' '.join(stages)}"
        )
    return restored


def remove_damaged_objects(out: Any) -> list[str]:
    """Remove the objects of `out` from DVC's cache whose bytes are not those of their name; return these names.

    Then the next run cannot take them again, and makes the output anew.
    """
    damaged = []
    if out.use_cache and out.hash_info:
        for oid in {md5 for _, md5 in _files(out)}:
            path = Path(out.cache.oid_to_path(oid))
            if path.is_file() and _md5(path) != oid:
                path.unlink()
                damaged.append(oid)
    return damaged


def _expected_files(repo: Any, paths: list[Path]) -> Iterator[tuple[Any, Path, str]]:
    """Yield (output, file, MD5) of each file of an output that is at or below one of `paths`."""
    for stage in repo.index.stages:
        for out in stage.outs:
            place = Path(out.fs_path)
            if out.hash_info and any(place.is_relative_to(path) or path.is_relative_to(place) for path in paths):
                for file, md5 in _files(out):
                    if any(file.is_relative_to(path) for path in paths):
                        yield out, file, md5


def _files(out: Any) -> Iterator[tuple[Path, str]]:
    """Yield (file, MD5) of the files of an output as dvc.lock states them."""
    if not out.hash_info.isdir:
        yield Path(out.fs_path), str(out.hash_info.value)
        return
    for parts, _, hash_info in out.get_obj() or ():
        yield Path(out.fs_path, *parts), str(hash_info.value)


def _is_modified(repo: Any, file: Path, md5: str) -> bool:
    """Whether DVC has seen that somebody wrote the file since: then it is new content, which DVC takes into account."""
    with contextlib.suppress(Exception):  # an unreadable database of DVC
        _, hash_info = repo.state.get(str(file), repo.fs)
        return hash_info is not None and str(hash_info.value) != md5
    return False


def _restore(repo: Any, out: Any, file: Path, md5: str) -> bool:
    """Replace `file` by an intact object of DVC's cache, which is fetched if necessary; return whether there is one."""
    cached = Path(out.cache.oid_to_path(md5))
    if cached.is_file() and _md5(cached) != md5:
        cached.unlink()
    if not cached.is_file():
        with contextlib.suppress(Exception):  # there is no remote, or it does not answer, or it lacks the object
            repo.fetch([out.def_path])
    if not cached.is_file() or _md5(cached) != md5:
        return False
    temporary = file.with_name(file.name + ".tmp")
    shutil.copyfile(cached, temporary)
    temporary.replace(file)
    return True


def _md5(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def locked_outs(lock: Path) -> dict[str, dict[str, str]]:
    """Return stage -> path -> hash of the outputs that a dvc.lock states."""
    body = yaml.safe_load(lock.read_text(encoding="utf-8")) or {} if lock.is_file() else {}
    return {
        stage: {out["path"]: str(out.get("md5", "")) for out in entry.get("outs", ())}
        for stage, entry in body.get("stages", {}).items()
    }


def locked_hash(lock: Path, path: str) -> str:
    """Return the hash that a dvc.lock states for a file or folder that a stage reads or writes, or an empty string."""
    body = yaml.safe_load(lock.read_text(encoding="utf-8")) or {} if lock.is_file() else {}
    for stage in body.get("stages", {}).values():
        for entry in (*stage.get("outs", ()), *stage.get("deps", ())):
            if entry["path"] == path:
                return str(entry.get("md5", ""))
    return ""
