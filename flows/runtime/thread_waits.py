"""How torch's threads wait for each other on a CPU: actively while the machine is idle, asleep while it has other work.

Most operations of a small model end within 0.1 ms, and a thread that has gone to sleep takes as long to wake: on two
idle cores, a step of the default sft takes 80 ms with active waiting and 135 ms without. Beside other processes, active
waiting takes the core from the thread that is waited for, and a step takes 200 to 2,000 ms instead of 160.

libgomp reads once, when it is loaded, how long its threads wait actively (GOMP_SPINCOUNT). But it shortens this to
10 us while its threads are more than the cores (the variable gomp_throttled_spin_count_var of GCC's libgomp). So, while
threads of this process wait for a core, there are extra teams of threads, which do nothing. No result depends on this.
"""

import contextlib
import os
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

SETTING = "GOMP_SPINCOUNT"
ACTIVE, SHORT = "100000", "1000"  # libgomp counts about 100,000 per millisecond
TASKS, STATISTICS = Path("/proc/self/task"), Path("/proc/self/schedstat")
SECONDS = 1.0  # between two measurements
BUSY, CALM = 0.25, 0.15  # of a core that the threads wanted and did not get; an idle machine shows up to 0.1
MIN_CALM, MAX_CALM = 4, 64  # measurements without other work before active waiting; doubled when that was too early
MIN_ELEMENTS = 1 << 16  # per thread, so that torch divides an operation among all threads


def default() -> str:
    """The value of GOMP_SPINCOUNT: a long one only where other work is noticed."""
    return ACTIVE if is_supported() else SHORT


def is_supported() -> bool:
    """Whether the system counts how long threads wait; some have no such file, and some write zeros into it."""
    try:
        return int(STATISTICS.read_bytes().split()[0]) > 0  # how long this process has run
    except (OSError, IndexError, ValueError):
        return False


@cache
def adapt() -> None:
    """Adapt how threads wait until this process ends. Where the user has chosen that, nothing is done."""
    if os.environ.get(SETTING) == ACTIVE and os.environ.get("OMP_NUM_THREADS") != "1":
        threading.Thread(target=_watch, name="thread waits", daemon=True).start()


class Throttle:
    """Decides by the share of a core that was waited for whether extra teams are needed."""

    def __init__(self) -> None:
        self.is_on = False
        self._num_calm = self._needed = MIN_CALM

    def update(self, share: float) -> bool:
        """Take the share of the last second; return whether extra teams are needed now."""
        self._num_calm = self._num_calm + 1 if share < CALM else 0 if self.is_on else self._num_calm
        if not self.is_on and share > BUSY:
            # If active waiting has just begun again, that was too early: the other work has pauses.
            self._needed = min(2 * self._needed, MAX_CALM) if self._num_calm < self._needed else MIN_CALM
            self.is_on, self._num_calm = True, 0
        elif self.is_on and self._num_calm >= self._needed:
            self.is_on, self._num_calm = False, 0
        return self.is_on


class ExtraTeams:
    """Threads with OpenMP teams of their own, so that libgomp has more threads than cores. `end` ends them."""

    def __init__(self, torch: Any) -> None:
        self._ending = threading.Event()
        num_threads, num_cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
        count = (num_cores - 1) // (num_threads - 1) if num_threads > 1 else 0
        arguments = (torch, num_threads)
        self._threads = [threading.Thread(target=self._idle, args=arguments, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _idle(self, torch: Any, num_threads: int) -> None:
        # This makes the team of this thread, which lives as long as the thread.
        torch.zeros(num_threads * MIN_ELEMENTS, device="cpu").add_(1)
        self._ending.wait()

    def end(self) -> None:
        """End the threads and their teams."""
        self._ending.set()
        for thread in self._threads:
            thread.join()


def _watch() -> None:
    throttle, teams = Throttle(), None
    before, time_before = _waited(), time.monotonic()
    while True:
        time.sleep(SECONDS)
        waited, now = _waited(), time.monotonic()
        share = (waited - before) / (now - time_before)
        before, time_before = waited, now
        torch = _torch()
        if torch is None:
            continue
        is_needed = throttle.update(share)
        if is_needed and teams is None:
            teams = ExtraTeams(torch)
        elif not is_needed and teams is not None:
            teams.end()
            teams = None


def _torch() -> Any:
    """The module torch; None before it is imported, and during its import, when an operation of it would crash."""
    torch = sys.modules.get("torch")
    is_importing = getattr(getattr(torch, "__spec__", None), "_initializing", False)  # an attribute of importlib
    return None if is_importing else torch


def _waited() -> float:
    """The seconds in which threads of this process could run and had no core."""
    nanoseconds = 0
    for task in TASKS.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            nanoseconds += int((task / "schedstat").read_bytes().split()[1])
    return nanoseconds / 1e9
