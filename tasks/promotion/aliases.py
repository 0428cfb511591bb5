"""The aliases `candidate` and `champion`: what the log says, and the links below data/models that servers read."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.errors import BadInput
from tasks.files import sync_folder
from tasks.promotion.versions import MODEL, VERSIONS

CANDIDATE, CHAMPION = "candidate", "champion"
FOLDER = "promotion"  # below data/
REGISTER, PROMOTE, ROLLBACK, REMOVE = "register", "promote", "rollback", "remove"


@dataclass(frozen=True)
class State:
    """What the log adds up to. history: the champions, the present one last, without those that were rolled back."""

    candidate: int | None = None
    history: Sequence[int] = ()
    refused: frozenset[str] = frozenset()  # digests of models that were rolled back
    versions: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)  # number -> the line that registered it

    @property
    def champion(self) -> int | None:
        """The version that is champion."""
        return self.history[-1] if self.history else None

    @property
    def next_number(self) -> int:
        """The number of the next version."""
        return max(self.versions, default=0) + 1

    def number_of(self, digest: str, report: str) -> int | None:
        """The version with this model and this report; None if there is none."""
        for number, entry in self.versions.items():
            if (entry["model"], entry["report"]) == (digest, report):
                return number
        return None


def state(entries: Sequence[Mapping[str, Any]]) -> State:
    """The state after the entries of a log."""
    candidate: int | None = None
    history: list[int] = []
    refused: set[str] = set()
    versions: dict[int, Mapping[str, Any]] = {}
    for entry in entries:
        event, number = entry["event"], int(entry.get("version") or 0)
        if event == REGISTER:
            versions[number] = entry
            candidate = number
        elif event == PROMOTE:
            history.append(number)
            refused.discard(str(versions[number]["model"]))
        elif event == ROLLBACK:
            refused.add(str(versions[history.pop()]["model"]))
    return State(candidate, tuple(history), frozenset(refused), versions)


def point(data: Path, current: State) -> None:
    """Let data/models/candidate and data/models/champion be links to the versions that the log states.

    Each link is replaced by a rename, so that a reader sees the old version or the new one. A link that a kill has left
    behind is repaired by the next call. Raises BadInput if a folder has the name of a link.
    """
    for alias, number in ((CANDIDATE, current.candidate), (CHAMPION, current.champion)):
        path = data / "models" / alias
        if number is None:
            if path.is_symlink():
                path.unlink()
            continue
        refuse_folder(path)
        target = Path("..", FOLDER, VERSIONS, str(number), MODEL)
        if not path.is_symlink() or path.readlink() != target:
            temporary = path.with_name(f".{alias}.tmp")
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.symlink_to(target)
            temporary.replace(path)
            sync_folder(path.parent)


def refuse_folder(path: Path) -> None:
    """Raise BadInput if `path` is a folder or file of the user, which a link would replace."""
    if path.exists() and not path.is_symlink():
        raise BadInput(
            f"{path} exists and is not a link that promotion made. Move it away; its name is that of an alias."
        )
