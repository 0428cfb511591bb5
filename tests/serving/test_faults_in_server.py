"""The faults of benchmarks/faults_in_server.py with fewer clients: nothing is lost, doubled, or answered with 5xx."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import faults_in_server as faults
from flows.serving.page_api import Page
from tasks.feedback import FeedbackLog
from tasks.serving import RankingQueue
from tests.evaluation import small
from tests.serving.running import server


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data = small.write_project(tmp_path_factory.mktemp("data"))
    page = Page(FeedbackLog(data / "raw/feedback"), RankingQueue([]), num_ranked=2, max_new_tokens=4)
    with server(data, page=page) as (address, _):
        yield address


@pytest.mark.slow
def test_a_killed_server_loses_and_doubles_no_acknowledged_vote(tmp_path: Path) -> None:
    """100 votes beside 20 streams; SIGKILL in the middle; all votes are sent again."""
    result = faults.kill_amid_votes(tmp_path, faults.write_model(tmp_path / "models/sft"), 20, 100)
    assert (result["streams"], result["lost"], result["doubled"]) == (20, 0, 0)
    assert 30 <= result["acknowledged_before_kill"] < 100


def test_malformed_requests_are_never_a_failure(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    """1,000 requests, and bytes that are no HTTP: no status of 500 or more, no traceback; errors of the protocol."""
    result = faults.send_malformed(address, 1000)
    assert (result["server_errors"], result["without_form"]) == (0, 0)
    assert result["refused"] > 600
    assert "Traceback" not in capfd.readouterr().err


def test_memory_stays_constant_with_clients_that_leave(address: str) -> None:
    """100 clients that leave and 32 slow ones, in four rounds."""
    result = faults.memory_with_clients(address, os.getpid(), 8, 25, 4)
    assert (result["slow_clients"], result["clients_that_left"]) == (32, 100)
    assert result["memory_growth_mb"] < 24
