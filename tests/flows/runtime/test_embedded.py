"""A server whose process was killed is stopped by the next run; that of a living one is left alone."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.runtime import embedded, environment
from tasks.files import read_json, write_json


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[bytes]"]:
    monkeypatch.setattr(embedded, "EMBEDDED", tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def test_the_server_of_a_living_process_stays(server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    embedded.note_server(server.pid)
    embedded.end_orphans()
    assert server.poll() is None
    assert len(list(tmp_path.glob("*.json"))) == 1


def test_the_server_of_a_killed_process_is_stopped(server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    embedded.note_server(server.pid)
    (file,) = tmp_path.glob("*.json")
    write_json(file, {**read_json(file), "owner": [psutil.Process().pid, 1.0]})  # the number now means another
    embedded.end_orphans()
    assert server.wait(60) != 0
    assert not list(tmp_path.glob("*.json"))


def test_a_number_that_means_another_process_now_is_left_alone(
    server: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    write_json(tmp_path / "1.json", {"owner": [psutil.Process().pid, 1.0], "server": [server.pid, 1.0]})
    embedded.end_orphans()
    assert server.poll() is None


def test_flow_runs_of_another_database_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = environment.defaults()[environment.DATABASE]
    for where, expected in ((ours, True), ("postgresql+asyncpg://prefect.internal/prefect", False)):
        monkeypatch.setenv(environment.DATABASE, where)
        assert embedded._is_ours() == expected
