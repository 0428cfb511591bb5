"""The next run stops the server of a killed process, and no other server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect import Task, task

from flows.runtime import embedded, environment
from tasks.files import read_json, write_json


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_the_server_of_a_living_process_stays(server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    embedded.record_server(server.pid)
    embedded.stop_orphans()
    assert server.poll() is None
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_the_server_of_a_killed_process_is_stopped(server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    embedded.record_server(server.pid)
    (file,) = tmp_path.glob("*.json")
    write_json(
        file, {**read_json(file), "owner": [psutil.Process().pid, 1.0]}
    )  # the system has given the id to another process
    embedded.stop_orphans()
    assert server.wait(60) != 0
    assert not list(tmp_path.glob("*.json"))


def test_a_reused_process_id_is_left_alone(server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    write_json(tmp_path / "1.json", {"owner": [psutil.Process().pid, 1.0], "server": [server.pid, 1.0]})
    embedded.stop_orphans()
    assert server.poll() is None


def test_flow_runs_in_another_database_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    own_database = environment.defaults()[environment.DATABASE]
    for database, expected in ((own_database, True), ("postgresql+asyncpg://prefect.internal/prefect", False)):
        monkeypatch.setenv(environment.DATABASE, database)
        assert embedded._has_own_database() == expected


@task
def double(number: int, by: int = 2) -> int:
    return number * by


def test_without_a_server_tasks_call_their_functions() -> None:
    original = Task.__call__
    with embedded.without_server():
        assert double(3, by=5) == 15
    assert Task.__call__ is original
