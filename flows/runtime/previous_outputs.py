"""The outputs of the previous run of a stage, which stay until the new ones are committed.

DVC deletes outputs before it runs a stage. Instead they are moved into .run/previous, and moved back when the stage
fails. After a kill, the next command moves them back.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from flows.runtime.environment import RUN

FOLDER = RUN / "previous"


def put_aside(stage: str, outs: Iterable[str]) -> None:
    """Move the existing `outs` of a stage aside. What is on another file system is left to DVC, which deletes it."""
    discard(stage)
    for out in outs:
        target = FOLDER / stage / out
        if os.path.lexists(out):
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                Path(out).rename(target)


def put_back(stage: str, outs: Iterable[str]) -> None:
    """Replace what a failed run has written by the outputs of the run before, as far as there was one."""
    for out in outs:
        previous = FOLDER / stage / out
        if os.path.lexists(previous):
            _remove(Path(out))
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            previous.rename(out)
    discard(stage)


def discard(stage: str) -> None:
    """Delete the outputs that were put aside, because the new ones are committed."""
    shutil.rmtree(FOLDER / stage, ignore_errors=True)


def stages() -> list[str]:
    """Return the stages whose outputs are aside: those of a run that was killed, if none runs."""
    return sorted(path.name for path in FOLDER.glob("*") if path.is_dir())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
