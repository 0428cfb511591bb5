"""`--engine vllm` with a stand-in for vLLM in another environment: comparison, errors, the end of its process."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.serving import free_port
from flows.serving import vllm
from flows.serving.__main__ import main
from tests.evaluation import small

STAND_IN, ROOT = Path(__file__).parent / "stand_in", Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_project(tmp_path_factory.mktemp("vllm"))


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter of an environment that has the stand-in."""
    file = tmp_path / "python"
    file.write_text(f'#!/bin/sh\nPYTHONPATH="{STAND_IN}" exec "{sys.executable}" "$@"\n')
    file.chmod(0o755)
    monkeypatch.setenv("STAND_IN_PID", str(tmp_path / "pid"))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("{}\n")
    monkeypatch.chdir(tmp_path)  # the exported folder is written below .run
    return file


def arguments(data: Path, python: Path, port: str) -> list[str]:
    return ["--engine", "vllm", "--vllm-python", str(python), "--data", str(data), "--model", "sft", "--port", port]


def refusal(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    assert main(list(args)) == code
    return capsys.readouterr().err


def test_without_an_environment_the_message_says_how_to_make_one(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, *arguments(data, tmp_path / "none", free_port()))
    assert f"there is no interpreter {tmp_path / 'none'}" in message
    assert "pip install vllm" in message


def test_an_environment_without_vllm(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has no package vllm" in refusal(capsys, *arguments(data, Path(sys.executable), free_port()))


def test_a_machine_without_a_gpu(
    data: Path, python: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN_DEVICE", "")
    assert "vLLM finds no GPU" in refusal(capsys, *arguments(data, python, free_port()))


def test_arguments_that_vllm_does_not_obey_are_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(data, Path("python"), free_port())
    assert "has no --max-queue, --compare-share" in refusal(capsys, *args, "--compare-share", ".5", "--max-queue", "3")


@pytest.mark.parametrize("engine", ["own", "vllm"])
def test_a_port_in_use_is_reported_before_anything_is_loaded(
    data: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        message = refusal(capsys, "--engine", engine, "--data", str(data), "--port", port)
    assert message.startswith(f"athanor: --port {port} is in use on 127.0.0.1. End the program that uses it")


@pytest.mark.slow
def test_a_crash_at_the_start_shows_the_last_lines_of_vllm(
    data: Path, python: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "crash")
    message = refusal(capsys, *arguments(data, python, free_port()), code=5)
    assert "vLLM has ended while it started (exit code 1)" in message
    assert "not enough memory" in message


@pytest.mark.slow
def test_other_greedy_text_is_not_served(
    data: Path, python: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STAND_IN_FAULT", "different")
    message = refusal(capsys, *arguments(data, python, free_port()), code=5)
    assert "the greedy text of vLLM differs" in message
    assert not psutil.pid_exists(int((python.parent / "pid").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_equal_text_is_served_and_vllm_ends_with_its_parent(data: Path, python: Path, number: signal.Signals) -> None:
    with process(data, python) as (server, address):
        pid = int((python.parent / "pid").read_text())
        body = {"model": "sft", "prompt": [1, 2, 3], "max_tokens": 2, "temperature": 0}
        answer = httpx.post(f"{address}/v1/completions", json=body)
        assert answer.json()["choices"][0]["index"] == 0
        other_site = httpx.post(f"{address}/v1/completions", json=body, headers={"origin": "http://other.example"})
        assert other_site.status_code == 403
        assert httpx.get(f"{address}/invocations").status_code == 404
        server.send_signal(number)
        assert server.wait(60) == (0 if number == signal.SIGTERM else -number)
        await_end(pid)


@pytest.mark.slow
def test_the_server_ends_with_vllm(data: Path, python: Path) -> None:
    with process(data, python) as (server, _):
        os.kill(int((python.parent / "pid").read_text()), signal.SIGKILL)
        assert server.wait(60) == 5
        assert f"vLLM has ended (exit code -9); see {vllm.LOG}" in (python.parent / "server.log").read_text()


@contextlib.contextmanager
def process(data: Path, python: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    port, log = free_port(), python.parent / "server.log"
    command = [sys.executable, "-m", "flows.serving", *arguments(data, python, port)]
    with open(log, "wb") as output:
        server = subprocess.Popen(command, stderr=output, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        until = time.monotonic() + 300
        while "Ctrl-C" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        time.sleep(1)  # the port opens after this line
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def await_end(pid: int) -> None:
    until = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until, "vLLM is still running"
        time.sleep(0.1)
