"""The outputs of the previous run of a stage, which stay until the new ones are committed.

DVC deletes outputs before it runs a stage, and a stage that runs alone replaces them. Instead they are moved into
.run/previous, and moved back when the stage fails. After a kill, the next run of the stage or pipeline moves them back.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flows.runtime.environment import RUN
from tasks.errors import GateFailed

FOLDER = RUN / "previous"


def put_aside(stage: str, outs: Sequence[str]) -> None:
    """Move the existing `outs` of a stage aside; what is on another file system stays where it is.

    Those that a killed run has left aside are the complete ones: they replace what it had written.
    """
    put_back(stage, outs)
    for out in outs:
        target = FOLDER / stage / out
        if os.path.lexists(out):
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                Path(out).rename(target)


@contextmanager
def put_back_on_failure(stage: str, outs: Sequence[str]) -> Iterator[None]:
    """Put the outputs of a stage back if the block fails or is interrupted; delete them if it ends well.

    A failed gate ends well in this sense: the new outputs are complete, only not good enough.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, GateFailed):
            put_back(stage, outs)
        discard(stage)
        raise
    discard(stage)


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
