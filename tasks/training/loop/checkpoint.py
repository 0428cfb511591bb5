"""Checkpoints that stay correct after a kill, on a full disk, and when a bit flips.

A checkpoint is a folder <step>/ with state.pt and a manifest with its sha256. It is written under a temporary name,
flushed to disk, then renamed, so that a folder with its final name is complete. Saving runs in a thread on a copy of
the weights. A run resumes from the newest complete checkpoint whose sha256 is right: torch.load itself notices neither
a flipped bit nor a file that is half empty.
"""

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import torch
from torch import Tensor

from tasks.files import MANIFEST, read_json, sha256, sync_folder, version_problem, with_version, write_json

STATE = "state.pt"
MAX_COST = 0.01  # share of the time of a run that saving may take when no interval is given
MIN_SECONDS = 20.0  # between two checkpoints when no interval is given


def load_newest(folder: Path, identity: str = "") -> dict[str, Any] | None:
    """The state in the newest complete checkpoint with this `identity`, or None if there is no such checkpoint.

    `identity`: a hash of everything that decides the result. Checkpoints that are not used are named on stderr with the
    reason.
    """
    for path in reversed(_complete_folders(folder)):
        problem = _problem(path, identity)
        if problem is None:
            # weights_only: torch.load would otherwise execute code from the file. On the CPU: the device may have
            # changed since, and a second copy of all weights need not fit on a GPU.
            return dict(torch.load(path / STATE, map_location="cpu", weights_only=True))
        print(f"checkpoint {path} is not used: {problem}", file=sys.stderr, flush=True)
    return None


def _problem(path: Path, identity: str) -> str | None:
    try:
        manifest = read_json(path / MANIFEST)
        if problem := version_problem("checkpoint", manifest, path / MANIFEST):
            return problem  # checked first: the identity of a run depends on params, whose names may have changed
        if manifest["identity"] != identity:
            return "it was made with other params or data"
        if manifest["sha256"] != sha256(path / STATE):
            return f"{STATE} is damaged (its sha256 is not the one in {MANIFEST})"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is incomplete ({error})"
    return None


def _complete_folders(folder: Path) -> list[Path]:
    # Names have nine digits, so their order is that of the steps. Unfinished folders end with .tmp and are left out.
    return sorted(path for path in folder.glob("*") if path.is_dir() and path.name.isdigit())


def adopt(source: Path, target: Path, identity: str, last_step: int) -> int | None:
    """Copy the newest checkpoint of another run with at most `last_step` steps, as one of the run with `identity`.

    The caller knows that both runs are equal until then. Returns the step of the checkpoint, None if there is none.
    """
    folders = [path for path in _complete_folders(source) if int(path.name) <= last_step]
    if not folders:
        return None
    manifest = read_json(folders[-1] / MANIFEST)
    copy = target / folders[-1].name
    copy.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folders[-1] / STATE, copy / STATE)
    write_json(copy / MANIFEST, {**manifest, "identity": identity})
    return int(copy.name)


class Saver:
    """Writes checkpoints into `folder` and keeps the last `keep`. Leaving the context waits for the last one.

    `every`: steps between two checkpoints; None chooses the interval so that saving takes at most MAX_COST of the time.
    A checkpoint that cannot be written (full disk) is reported on stderr and in `failures`; the older ones remain.
    """

    def __init__(self, folder: Path, keep: int, every: int | None, identity: str = "") -> None:
        self.folder, self.keep, self.every, self.identity = folder, keep, every, identity
        self.failures: list[str] = []
        self.seconds = 0.0  # CPU time that saving has taken
        self._thread: threading.Thread | None = None
        self._last, self._last_cost = time.monotonic(), 0.0

    def __enter__(self) -> "Saver":
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):  # of a run that was killed while it saved
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._wait()

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` steps."""
        if self.every is not None:
            return step % self.every == 0
        # While the previous checkpoint is written, `save_async` would wait for it and stop the training.
        busy = self._thread is not None and self._thread.is_alive()
        return not busy and time.monotonic() - self._last >= max(MIN_SECONDS, self._last_cost / MAX_COST)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint and return when it is on disk."""
        self._wait()
        self._write(step, state, 0.0)

    def save_async(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy the state now and write it in a thread while training continues."""
        self._wait()
        # The optimizer updates weights in place during the next step, so the thread must not read them.
        start = time.thread_time()
        copy = _cpu_copy(state)
        self._thread = threading.Thread(target=self._write, args=(step, copy, time.thread_time() - start), daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, step: int, state: Mapping[str, Any], spent: float) -> None:
        start = time.thread_time()
        try:
            write(self.folder / f"{step:09d}", state, self.identity)
            for old in _complete_folders(self.folder)[: -self.keep]:
                shutil.rmtree(old)
        except OSError as error:  # a full disk must not end a run of days; the older checkpoints are still valid
            message = f"checkpoint of step {step} was not written ({error}); older ones remain in {self.folder}"
            self.failures.append(message)
            print(message, file=sys.stderr, flush=True)
        self._last, self._last_cost = time.monotonic(), spent + time.thread_time() - start
        self.seconds += self._last_cost


def write(path: Path, state: Mapping[str, Any], identity: str = "") -> None:
    """Write one checkpoint folder so that `path` is absent or complete. Raises OSError where the disk fails."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.mkdir(parents=True)
    try:
        digest = _write_state(temporary / STATE, state)
        write_json(temporary / MANIFEST, with_version("checkpoint", {"sha256": digest, "identity": identity}))
        if path.exists():
            shutil.rmtree(path)
        # Everything inside is on disk by now (both writers call fsync). The rename publishes it at once, and only the
        # fsync of the parent makes the new name survive a power failure.
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_state(path: Path, state: Mapping[str, Any]) -> str:
    with _HashingFile(path) as file:
        try:
            torch.save(dict(state), cast(IO[bytes], file))
        except RuntimeError:  # torch hides the OSError of a failed write; the file has kept it
            if file.failure is None:
                raise
        if file.failure is not None:
            raise file.failure
        return file.finish()


class _HashingFile:
    """A file for torch.save that computes the sha256 while it is written and keeps the first OSError.

    Hashing the written file afterwards would read it once more, and would hash what the disk returns, not the weights.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        self._hash = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, part: bytes) -> int:
        try:
            written = self._file.write(part)
        except OSError as error:
            self.failure = self.failure or error
            raise
        self._hash.update(part)
        return written

    def flush(self) -> None:
        self._file.flush()

    def finish(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._hash.hexdigest()

    def __enter__(self) -> "_HashingFile":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            self.failure = self.failure or error


def _cpu_copy(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: _cpu_copy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_cpu_copy(value) for value in state)
    return state
