"""A command on several nodes: its lines, its end everywhere, the resources it asks for; on Ray, if it is installed."""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import BadInput, BadParams
from tasks.training.parallel import launch, ray_nodes
from tasks.training.parallel.ray_nodes import NodeProcess
from tasks.training.parallel.strategies import Launch
from tests.training.parallel.test_launch import kill_one, train

FOREVER = "import time; time.sleep(60)"
UNTIL_STOPPED = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('checkpoint'), sys.exit(3)));"
    "print('started', flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "POLL_SECONDS", 0.02)
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)


def start(*programs: str) -> dict[str, NodeProcess]:
    nodes = {f"node {number}": NodeProcess(str(Path.cwd())) for number in range(len(programs))}
    for node, program in zip(nodes.values(), programs, strict=True):
        node.start([sys.executable, "-c", program], {"GREETING": "hello"}, launch.OWNER)
    return nodes


def test_lines_of_all_nodes_are_printed_with_their_names(capfd: pytest.CaptureFixture[str]) -> None:
    program = f"import os; print(os.environ['GREETING'], os.environ['{launch.OWNER}'])"
    assert ray_nodes.wait(start(program, "import sys; sys.stderr.write('no end of line')"))
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == [f"node 0: hello {os.getpid()}", "node 1: no end of line"]


def test_a_failure_on_one_node_ends_the_command_on_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = start(FOREVER, "raise SystemExit(7)")
    assert not ray_nodes.wait(nodes)
    error = capfd.readouterr().err
    assert "warning: node 1: the command ended with exit code 7" in error
    assert f"warning: node 0: the command ended with exit code {-signal.SIGTERM}" in error
    assert all(node.poll()[1] is not None for node in nodes.values())


def test_an_interrupt_ends_the_command_everywhere_after_its_checkpoint(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = start(UNTIL_STOPPED, UNTIL_STOPPED)
    for node in nodes.values():
        while node.poll() != (["started"], None):
            time.sleep(0.02)
    interrupts: list[type[BaseException]] = [KeyboardInterrupt]

    def sleep(_: float) -> None:
        if interrupts:
            raise interrupts.pop()

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        ray_nodes.wait(nodes)
    assert sorted(capfd.readouterr().err.splitlines()) == ["node 0: checkpoint", "node 1: checkpoint"]
    assert all(node.poll()[1] == 3 for node in nodes.values())


@pytest.mark.parametrize(
    ("nodes", "wants_gpu", "expected"),
    [
        ([{"CPU": 8}, {"CPU": 64}, {"CPU": 32}, {}], True, {"CPU": 32}),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 64}, {"CPU": 4, "GPU": 4}], True, {"CPU": 4, "GPU": 2}),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 64}, {"CPU": 4, "GPU": 4}], False, {"CPU": 8}),
    ],
)
def test_each_node_gives_its_cpus_and_a_gpu_for_each_process(
    nodes: Sequence[dict[str, float]], wants_gpu: bool, expected: dict[str, int]
) -> None:
    """Two nodes with two processes each: the CPUs of the second largest node that has the GPUs."""
    assert ray_nodes.resources_of_node(nodes, 2, 2, wants_gpu) == expected


def test_too_few_nodes() -> None:
    with pytest.raises(BadParams, match=r"launch\.nodes is 2, but 1 nodes of the Ray cluster have 1 CPU and 4 GPUs"):
        ray_nodes.resources_of_node([{"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 1}, {"CPU": 8}], 2, 4, True)


def test_an_address_means_nodes_that_are_started_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHANOR_ENGINE", "ray")
    assert launch._ray_nodes(Launch(nodes=2)) is ray_nodes
    assert launch._ray_nodes(Launch(nodes=2, rendezvous="host:1")) is None
    assert launch._ray_nodes(Launch(processes=2)) is None
    monkeypatch.setenv("ATHANOR_ENGINE", "local")
    assert launch._ray_nodes(Launch(nodes=2)) is None


def test_torchrun_gets_the_arguments_of_its_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    commands: list[list[str]] = []
    threads: list[str] = []

    def run(count: int, _processes: int, wants_gpu: bool, command: Any, variables: Any, owner: str) -> None:
        commands.extend(command(number, f"10.0.0.{number}", "10.0.0.0:29400") for number in range(count))
        threads.append(variables(8)["OMP_NUM_THREADS"])
        assert (wants_gpu, owner) == (False, launch.OWNER)

    monkeypatch.setenv("ATHANOR_ENGINE", "ray")
    monkeypatch.setattr(ray_nodes, "run", run)
    monkeypatch.setattr(launch, "MAX_ATTEMPTS", 1)
    with pytest.raises(BadInput, match="lost a process"):
        train(tmp_path, tmp_path / "checkpoints", launch={"nodes": 2, "processes": 2})
    assert threads == ["4"]
    for number, command in enumerate(commands):
        text = " ".join(command)
        assert f"--nproc-per-node 2 --local-addr 10.0.0.{number} --nnodes 2" in text
        assert f"--rdzv-endpoint 10.0.0.0:29400 --rdzv-id checkpoints-1 --rdzv-conf is_host={1 - number}" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nodes_of_ray_give_the_losses_of_one_process_and_survive_a_kill(
    cluster: None, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two raylets have one process each, and one of these is killed."""
    one = train(ready, tmp_path / "one", steps=40)
    monkeypatch.setenv("ATHANOR_ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    killer = threading.Thread(target=kill_one, args=(tmp_path / "two",), daemon=True)
    killer.start()
    two = train(ready, tmp_path / "two", steps=40, launch={"nodes": 2}, checkpoint_every=5)
    error = capfd.readouterr().err
    assert "the command ended with exit code 1" in error
    assert "a process died in attempt 1" in error
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_more_nodes_than_the_cluster_has(cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATHANOR_ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(BadParams, match=r"launch\.nodes is 3, but 2 nodes of the Ray cluster have 1 CPU\. Add nodes"):
        train(tmp_path, tmp_path / "three", launch={"nodes": 3})
