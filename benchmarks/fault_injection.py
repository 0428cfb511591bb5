"""Injected faults: kills at the n-th write, bit flips, truncations, full disks; and how the outcome is counted."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SURVIVED, LOST, DOUBLED, WRONG, DEAD_RUN = "survived", "lost", "doubled", "wrong", "dead_runs"
TMPFS_KIB = 64
WRITING_MODES = set("wax+")


@dataclass
class Tally:
    """The outcomes of all faults, and by area and outcome."""

    outcomes: Counter[str] = field(default_factory=Counter)
    by_area: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, area: str, name: str, outcome: str) -> None:
        """Count one fault and print what did not survive."""
        self.outcomes[outcome] += 1
        self.by_area[area, outcome] += 1
        if outcome != SURVIVED:
            print(f"{area}: {name}: {outcome}", file=sys.stderr, flush=True)

    def body(self) -> dict[str, int]:
        """Return the keys of the benchmark."""
        return {"faults": self.outcomes.total()} | {
            name: self.outcomes[name] for name in (SURVIVED, LOST, DOUBLED, WRONG, DEAD_RUN)
        }


def run_forked(work: Callable[[], object]) -> int:
    """Do `work` in a forked process without output. Return its exit code; negative for the signal that ended it."""
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def count_writes(work: Callable[[], object]) -> int:
    """Do `work` in a forked process and return how many times it opens a file for writing, renames or removes one."""
    with tempfile.NamedTemporaryFile() as file:

        def count() -> None:
            number = [0]
            _on_each_write(lambda: number.__setitem__(0, number[0] + 1))
            work()
            descriptor = os.open(file.name, os.O_WRONLY)
            os.write(descriptor, str(number[0]).encode())

        assert run_forked(count) == 0, "the work failed without a fault"
        return int(Path(file.name).read_bytes())


def killed_at(at_write: int, work: Callable[[], object]) -> Callable[[], None]:
    """Return `work` that is killed (SIGKILL) just before its n-th write, rename or removal; for `run_forked`."""

    def run() -> None:
        remaining = [at_write]

        def kill() -> None:
            remaining[0] -= 1
            if remaining[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        _on_each_write(kill)
        work()

    return run


def _on_each_write(action: Callable[[], object]) -> None:
    """Call `action` before each write in this process. Python cannot remove such a hook: use it in a forked process."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        is_open = event == "open" and isinstance(arguments[1], str) and bool(WRITING_MODES & set(arguments[1]))
        if is_open or event in ("os.rename", "os.remove", "os.rmdir", "os.link"):
            action()

    sys.addaudithook(hook)


def spread(total: int, number: int) -> list[int]:
    """Return up to `number` different positions from 1 to `total`, the first and the last among them."""
    return sorted({1 + round(i * (total - 1) / max(1, number - 1)) for i in range(number)}) if total else []


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Flip one bit of a file, cut it at a random place, empty it, or fill a block with zeros."""
    body = bytearray(path.read_bytes())
    position = rng.randrange(len(body))
    if kind == "flip":
        body[position] ^= 1 << rng.randrange(8)
    elif kind == "truncation":
        del body[position:]
    elif kind == "empty":
        body.clear()
    else:
        body[position : position + 512] = bytes(len(body[position : position + 512]))
    is_read_only = not os.access(path, os.W_OK)
    path.chmod(0o644)
    path.write_bytes(body)
    if is_read_only:
        path.chmod(0o444)


@contextmanager
def full_disk() -> Iterator[Path]:
    """Yield a folder on a disk of its own of TMPFS_KIB. Raises OSError where this user may not mount one."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_KIB}k", "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            raise PermissionError("this user may not mount a tmpfs")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], capture_output=True, check=True)


def fresh(folder: Path, source: Path) -> Path:
    """Return `folder` as a new copy of `source`."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, symlinks=True)
    return folder
