"""Threads are held while other work needs the cores, and released when it has ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.runtime import thread_waits
from flows.runtime.thread_waits import BUSY, MIN_CALM, Throttle

CALM_LOOK, BUSY_LOOK = 0.0, BUSY + 0.1

DURING_IMPORT = """
from flows.runtime import thread_waits
thread_waits.BUSY, thread_waits.CALM, thread_waits.SECONDS = -1.0, -2.0, 0.001  # every look is a busy one
import flows
import torch
torch.zeros(1 << 20).add_(1)
"""
COUNTS = """
import os
import torch
from flows.runtime.thread_waits import Held

def count():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(4)
os.sched_getaffinity = lambda pid: set(range(8))
torch.zeros(1 << 20).add_(1)
before = count()
held = Held(torch)
for _ in range(1000):
    if count() == before + 2 * 4:
        break
    torch.zeros(1).add_(1)
    __import__("time").sleep(0.01)
during = count()
held.release()
for _ in range(1000):
    if count() == before:
        break
    __import__("time").sleep(0.01)
print(during - before, count() - before)
"""


def looks(throttle: Throttle, *shares: float) -> list[bool]:
    return [throttle.update(share) for share in shares]


def test_threads_are_held_from_the_first_busy_look_on() -> None:
    throttle = Throttle()
    assert looks(throttle, CALM_LOOK, BUSY_LOOK, CALM_LOOK) == [False, True, True]


def test_they_are_released_after_calm_looks_in_a_row() -> None:
    throttle = Throttle()
    throttle.update(BUSY_LOOK)
    assert looks(throttle, *[CALM_LOOK] * (MIN_CALM - 1), BUSY_LOOK) == [True] * MIN_CALM
    assert looks(throttle, *[CALM_LOOK] * MIN_CALM) == [True] * (MIN_CALM - 1) + [False]


def test_other_work_with_pauses_is_waited_for_longer_each_time() -> None:
    throttle, calm_looks = Throttle(), list[int]()
    for _ in range(6):
        throttle.update(BUSY_LOOK)
        number = 1
        while throttle.update(CALM_LOOK):
            number += 1
        calm_looks.append(number)
    assert calm_looks == [4, 8, 16, 32, 64, 64]
    looks(throttle, *[CALM_LOOK] * 64, BUSY_LOOK)
    assert looks(throttle, *[CALM_LOOK] * 4)[-1] is False, "after a long calm time, it is the first time again"


@pytest.mark.skipif(not thread_waits.SUPPORT.is_file(), reason="the system does not say how long threads wait")
def test_held_threads_have_teams_and_end() -> None:
    """With 4 threads on 8 cores, two teams of four are needed: 1 + 3 of the main thread, and 2 * 3, are more than 8."""
    environment = {"PATH": "", "OMP_NUM_THREADS": "4"}
    result = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.split() == ["8", "0"]
    assert thread_waits.default() == thread_waits.ACTIVE


@pytest.mark.skipif(not thread_waits.SUPPORT.is_file(), reason="the system does not say how long threads wait")
def test_nothing_is_done_while_torch_is_imported() -> None:
    environment = {"PATH": "", "OMP_NUM_THREADS": "4"}
    assert subprocess.run([sys.executable, "-c", DURING_IMPORT], env=environment, check=False).returncode == 0


def test_where_other_work_is_not_noticed_threads_wait_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_waits, "SUPPORT", Path("/proc/self/missing"))
    assert thread_waits.default() == thread_waits.SHORT
