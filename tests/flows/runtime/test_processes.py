"""Runs whose process has ended are found by the files of their processes, and a process ends with its parent."""

import datetime
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.runtime import processes
from tasks.files import write_json


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")


def test_a_run_is_dead_when_its_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.record("alive")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    write_json(processes.FOLDER / "dead.json", {"pid": ended.pid, "created": 1.0})
    (processes.FOLDER / "damaged.json").write_text("{", encoding="utf-8")
    assert [run for run, _ in processes.dead_runs()] == ["dead"]
    monkeypatch.delenv("PREFECT_API_URL")
    processes.record("embedded")
    assert not (processes.FOLDER / "embedded.json").exists()


def test_a_run_of_a_deployment_is_abandoned_without_its_process_or_worker() -> None:
    """A process that began after the run has another program's number; a run without one waits for its own worker."""
    now = datetime.datetime.now(datetime.UTC)
    earlier = now - datetime.timedelta(days=10_000)

    def is_abandoned(pid: int | None, since: datetime.datetime, state: str = "RUNNING", began: float = 0.0) -> bool:
        run = SimpleNamespace(infrastructure_pid=pid, state=SimpleNamespace(timestamp=since, type=state))
        return processes.is_abandoned(run, began)

    assert not is_abandoned(os.getpid(), now)
    assert is_abandoned(os.getpid(), earlier)
    assert not is_abandoned(os.getpid(), earlier, "PENDING")  # a process begins after its run was taken
    assert is_abandoned(999_999_999, now)
    assert not is_abandoned(None, now)
    assert is_abandoned(None, earlier, "PENDING", now.timestamp())


def test_a_process_ends_with_the_one_that_has_started_it() -> None:
    """sh starts a child that would sleep for minutes, prints its id and ends at once."""
    root = Path(processes.__file__).parents[2]
    child = "from flows.runtime import processes; processes.end_with_parent(); import time; time.sleep(300)"
    code = (
        "import os, subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env=os.environ | {{'{processes.PARENT}': "
        f"str(os.getpid()), 'PYTHONPATH': {str(root)!r}}}); print(child.pid)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{pid}").exists()
