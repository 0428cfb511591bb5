"""There are extra teams of threads while other work needs the cores, and no longer."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.runtime import thread_waits
from flows.runtime.thread_waits import BUSY, MIN_CALM, Throttle
from tasks.training.parallel import launch

CALM_SHARE, BUSY_SHARE = 0.0, BUSY + 0.1

DURING_IMPORT = """
from flows.runtime import thread_waits
thread_waits.BUSY, thread_waits.CALM, thread_waits.SECONDS = -1.0, -2.0, 0.001  # every measurement is a busy one
import flows
import torch
torch.zeros(1 << 20).add_(1)
"""
COUNTS = """
import os
import torch
from flows.runtime.thread_waits import ExtraTeams

def count():
    return len(os.listdir("/proc/self/task"))

torch.set_num_threads(4)
os.sched_getaffinity = lambda pid: set(range(8))
torch.zeros(1 << 20).add_(1)
before = count()
teams = ExtraTeams(torch)
for _ in range(1000):
    if count() == before + 2 * 4:
        break
    torch.zeros(1).add_(1)
    __import__("time").sleep(0.01)
during = count()
teams.end()
for _ in range(1000):
    if count() == before:
        break
    __import__("time").sleep(0.01)
print(during - before, count() - before)
"""


def updates(throttle: Throttle, *shares: float) -> list[bool]:
    return [throttle.update(share) for share in shares]


def test_teams_are_needed_from_the_first_busy_second_on() -> None:
    throttle = Throttle()
    assert updates(throttle, CALM_SHARE, BUSY_SHARE, CALM_SHARE) == [False, True, True]


def test_they_are_needed_until_several_calm_seconds_in_a_row() -> None:
    throttle = Throttle()
    throttle.update(BUSY_SHARE)
    assert updates(throttle, *[CALM_SHARE] * (MIN_CALM - 1), BUSY_SHARE) == [True] * MIN_CALM
    assert updates(throttle, *[CALM_SHARE] * MIN_CALM) == [True] * (MIN_CALM - 1) + [False]


def test_other_work_with_pauses_is_waited_for_longer_each_time() -> None:
    throttle, num_calm = Throttle(), list[int]()
    for _ in range(6):
        throttle.update(BUSY_SHARE)
        number = 1
        while throttle.update(CALM_SHARE):
            number += 1
        num_calm.append(number)
    assert num_calm == [4, 8, 16, 32, 64, 64]
    updates(throttle, *[CALM_SHARE] * 64, BUSY_SHARE)
    assert updates(throttle, *[CALM_SHARE] * 4)[-1] is False, "after a long calm time, it is the first time again"


@pytest.mark.skipif(not thread_waits.is_supported(), reason="the system does not say how long threads wait")
def test_extra_teams_have_threads_and_end() -> None:
    """With 4 threads on 8 cores, two teams of four are needed: 1 + 3 of the main thread, and 2 * 3, are more than 8."""
    environment = {"PATH": "", "OMP_NUM_THREADS": "4"}
    result = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout.split() == ["8", "0"]
    assert thread_waits.default() == thread_waits.ACTIVE


@pytest.mark.skipif(not thread_waits.is_supported(), reason="the system does not say how long threads wait")
def test_nothing_is_done_while_torch_is_imported() -> None:
    environment = {"PATH": "", "OMP_NUM_THREADS": "4"}
    assert subprocess.run([sys.executable, "-c", DURING_IMPORT], env=environment, check=False).returncode == 0


def test_processes_that_share_the_cores_wait_shortly_unless_the_user_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in ((thread_waits.ACTIVE, thread_waits.SHORT), ("7", "7")):
        monkeypatch.setenv(thread_waits.SETTING, value)
        assert launch.environment(2)[thread_waits.SETTING] == expected


@pytest.mark.parametrize("content", [None, "0 0 0\n", ""])
def test_where_other_work_is_not_noticed_threads_wait_shortly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(thread_waits, "STATISTICS", tmp_path / "schedstat")
    if content is not None:
        (tmp_path / "schedstat").write_text(content)
    assert thread_waits.default() == thread_waits.SHORT
