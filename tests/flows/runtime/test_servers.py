"""A server that was killed is started again, one that `down` has stopped is not."""

from pathlib import Path

import pytest

from flows.runtime import environment, servers
from tasks.files import read_json, write_json

SLEEP = ["timeit", "-n1", "-r1", "import time; time.sleep(300)"]  # a module of the standard library that runs for long


@pytest.mark.filterwarnings("ignore:subprocess .* is still running")
def test_the_watch_process_starts_a_killed_server_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = servers.FOLDER / "worker.json"
    servers.FOLDER.mkdir(parents=True)
    write_json(record, {"pid": 999_999_999, "created": 1.0, "arguments": SLEEP})
    try:
        servers.restart_ended()
        first = environment.server("worker")
        assert first is not None
        servers.restart_ended()
        assert environment.server("worker") == first
        first.kill()
        first.wait()
        servers.restart_ended()
        second = environment.server("worker")
        assert second is not None
        assert second.pid != first.pid
        assert read_json(record)["arguments"] == SLEEP
    finally:
        servers.down()
    assert not record.exists()
    servers.restart_ended()
    assert environment.server("worker") is None
