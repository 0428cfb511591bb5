"""Versions of models: folders that contain the files of a model and the reports that it was judged by.

<folder>/<number>/model holds hard links to the files of data/models/<stage> where the file system allows it, so that a
version needs no space until the next run replaces the model; every file is listed with its sha256 in version.json. A
version is made under another name and renamed, so that it is either complete or absent.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.comparison import Subject, reading
from tasks.errors import BadInput, BadModel
from tasks.files import MANIFEST, read_json, sha256, sync_folder, write_json

VERSIONS, MODEL, REPORTS, ABOUT = "versions", "model", "reports", "version.json"
UNFINISHED = ".new"
OTHER_REPORTS = ("comparison", "ablation*")  # about other runs
HASHING_THREADS = 4


@dataclass(frozen=True)
class Version:
    """One version. digest: sha256 of the manifest of the model; report: sha256 of evaluation.json.

    files: path below the folder of the version -> sha256; about: commit, data and other origins.
    """

    number: int
    stage: str
    source: str
    digest: str
    report: str
    files: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How the version is called in commands and messages."""
        return f"version {self.number} ({self.stage}, {self.digest[:12]})"


def folder_of(root: Path, number: int) -> Path:
    """The folder of a version below `root`, the folder of promotions."""
    return root / VERSIONS / str(number)


def add(root: Path, number: int, stage: str, data: Path, about: Mapping[str, Any]) -> Version:
    """Make version `number` of data/models/<stage> and the reports below `data`. The files are verified first.

    Raises BadModel for a model that is incomplete or damaged.
    """
    source, target = data / "models" / stage, folder_of(root, number)
    temporary = target.with_name(f"{UNFINISHED}-{number}")
    for leftover in (temporary, target):  # of a process that was killed before the log mentioned this version
        shutil.rmtree(leftover, ignore_errors=True)
    files = verified_files(source)
    for name in (*files, MANIFEST):
        link(source / name, temporary / MODEL / name)
    shutil.copytree(
        data / "reports", temporary / REPORTS, ignore=shutil.ignore_patterns("*.png", ".gitignore", *OTHER_REPORTS)
    )
    hashes = {f"{MODEL}/{name}": digest for name, digest in files.items()}
    rest = [temporary / MODEL / MANIFEST, *sorted((temporary / REPORTS).rglob("*"))]
    hashes |= {str(path.relative_to(temporary)): sha256(path) for path in rest if path.is_file()}
    report = hashes[f"{REPORTS}/{reading.REPORT}"]
    version = Version(number, stage, str(source), hashes[f"{MODEL}/{MANIFEST}"], report, hashes, dict(about))
    write_json(temporary / ABOUT, asdict(version))
    for folder in {path.parent for path in temporary.rglob("*")}:
        sync_folder(folder)
    temporary.rename(target)
    sync_folder(target.parent)
    return version


def read(root: Path, number: int) -> Version:
    """Read what a version is. Raises BadInput if there is none."""
    path = folder_of(root, number) / ABOUT
    if not path.is_file():
        numbers = sorted(int(one.name) for one in (root / VERSIONS).glob("*") if one.name.isdigit())
        raise BadInput(
            f"there is no version {number} in {root / VERSIONS}; there are: {', '.join(map(str, numbers)) or 'none'}"
        )
    try:
        return Version(**read_json(path))
    except TypeError as error:
        raise BadInput(f"{path} is damaged: it does not describe a version. Restore it from a backup.") from error


def verify(root: Path, version: Version) -> None:
    """Compare the bytes of all files of a version with their hashes. Raises BadModel, naming the file."""
    folder = folder_of(root, version.number)

    def problem(item: tuple[str, str]) -> str | None:
        path = folder / item[0]
        if not path.is_file():
            return f"{path} is missing"
        return None if sha256(path) == item[1] else f"{path} is damaged: its bytes are not those that were registered"

    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        problems = [text for text in threads.map(problem, version.files.items()) if text]
    if problems:
        more = f" (and {len(problems) - 1} more files)" if problems[1:] else ""
        raise BadModel(
            f"{version.name} cannot be used: {problems[0]}{more}. Restore {version.source} from DVC's cache "
            f"(`python -m flows.lineage {version.stage}` prints the commands), or choose another version."
        )


def has_model(root: Path, number: int) -> bool:
    """Whether the files of the model are still kept."""
    return (folder_of(root, number) / MODEL / MANIFEST).is_file()


def subject(root: Path, version: Version) -> Subject:
    """A version as one side of a comparison. Raises BadInput without a report."""
    return reading.read(f"version {version.number}", folder_of(root, version.number) / REPORTS, version.stage)


def remove_models(root: Path, kept: Iterable[int]) -> list[int]:
    """Delete the files of the models of all versions but `kept`; their reports stay. Return the numbers."""
    kept_numbers, removed = set(kept), []
    for folder in (root / VERSIONS).glob("*"):
        if folder.name.isdigit() and int(folder.name) not in kept_numbers and has_model(root, int(folder.name)):
            (folder / MODEL / MANIFEST).unlink()  # first: what is left is not a complete model
            shutil.rmtree(folder / MODEL)
            removed.append(int(folder.name))
    return sorted(removed)


def verified_files(source: Path) -> dict[str, str]:
    """Path -> sha256 of the files that the manifest of a model lists, all compared. Raises BadModel."""
    from tasks import models

    models.verify(source)
    return {str(name): str(digest) for name, digest in read_json(source / MANIFEST).items()}


def link(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where that is not possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
