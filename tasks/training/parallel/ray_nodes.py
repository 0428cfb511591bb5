"""A command on several nodes of a Ray cluster, which chooses the nodes; one of its processes on each runs the command.

The driver prints the lines of all nodes and ends the command everywhere when it fails on one of them. When the driver
or its connection is lost, Ray ends its processes, and the training processes end with them.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tasks.engine import settings
from tasks.engine.ray_engine import address_of_environment, connect
from tasks.errors import BadInput, BadParams

POLL_SECONDS = 0.5
RESERVE_SECONDS = 300.0  # how long the driver waits for nodes that are free
OUTPUT_SECONDS = 2.0  # how long the last lines of a command that has ended may take

Command = Callable[[int, str, str], Sequence[str]]
"""(number of the node, its IP address, host:port of the rendezvous, on the first node) -> the command of this node."""


def is_engine() -> bool:
    """Whether the engine of the settings is Ray. Raises BadParams."""
    return settings.current().engine == "ray"


class NodeProcess:
    """The command on one node. The driver calls these methods through Ray."""

    def __init__(self, folder: str) -> None:
        os.chdir(folder)
        self._lines = SimpleQueue[str]()

    def address(self) -> tuple[str, int]:
        """Return the IP address of this node, by which others reach it, and a port that is free."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def start(self, command: Sequence[str], variables: Mapping[str, str], owner: str) -> None:
        """Start the command in the environment of this node, with some other variables; `owner` gets this process."""
        environment = os.environ | variables | {owner: str(os.getpid())}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def poll(self) -> tuple[list[str], int | None]:
        """Return the lines since the last call, and the exit code; None while the command runs."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(OUTPUT_SECONDS)
        return [self._lines.get() for _ in range(self._lines.qsize())], code

    def stop(self) -> None:
        """Ask the command to end. torchrun passes the signal on, and its processes write a checkpoint first."""
        self._process.terminate()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))


class RemoteProcess:
    """A NodeProcess that Ray has started."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def poll(self) -> tuple[list[str], int | None]:
        """As of NodeProcess; a node that is lost has ended with exit code 1."""
        import ray

        try:
            lines, code = ray.get(self._actor.poll.remote())
        except ray.exceptions.RayError as error:
            return [f"the process of Ray on this node has died ({type(error).__name__})"], 1
        return lines, code

    def stop(self) -> None:
        """As of NodeProcess; a node that is lost has nothing to stop."""
        self._actor.stop.remote()


def run(
    count: int,
    processes: int,
    wants_gpu: bool,
    command: Command,
    variables: Callable[[int], Mapping[str, str]],
    owner: str,
) -> bool:
    """Run a command on `count` nodes until it has ended on all of them; whether each exit code is 0.

    processes: how many the command starts on each node; if the cluster has GPUs and `wants_gpu`, each gets one.
    variables: from the number of CPUs that a node has for the command to variables of its environment. owner: the
    variable for the number of the process that starts the command. Raises BadParams and BadInput if there are too few
    nodes.
    """
    with _reserved(count, processes, wants_gpu) as (actors, num_cpus):
        import ray

        try:
            addresses = ray.get([actor.address.remote() for actor in actors])
            rendezvous = f"{addresses[0][0]}:{addresses[0][1]}"
            commands = [list(command(number, ip, rendezvous)) for number, (ip, _) in enumerate(addresses)]
            own = dict(variables(num_cpus)), owner
            ray.get([actor.start.remote(each, *own) for actor, each in zip(actors, commands, strict=True)])
        except ray.exceptions.RayError as error:
            raise BadInput(
                f"training cannot start on a node of the Ray cluster: {error}. All machines need the project and its "
                "environment at the same path (docs/cluster.md)."
            ) from error
        names = [f"node {number} ({ip})" for number, (ip, _) in enumerate(addresses)]
        return wait({name: RemoteProcess(actor) for name, actor in zip(names, actors, strict=True)})


def wait(nodes: Mapping[str, NodeProcess | RemoteProcess]) -> bool:
    """Print the lines of all nodes until the command has ended everywhere; whether each exit code is 0.

    When it fails on one node, or this process is interrupted, it is ended on the others.
    """
    running, has_failed = dict(nodes), False
    try:
        while running:
            for name, code in _ended(running):
                if code:
                    print(f"warning: {name}: the command ended with exit code {code}", file=sys.stderr, flush=True)
                    has_failed = has_failed or _stop(running)
            time.sleep(POLL_SECONDS if running else 0)
    except BaseException:  # Ctrl-C, SIGTERM, Prefect's TerminationSignal
        _stop(running)
        while running:
            list(_ended(running))
            time.sleep(POLL_SECONDS)
        raise
    return not has_failed


def _ended(running: dict[str, NodeProcess | RemoteProcess]) -> Iterator[tuple[str, int]]:
    """Print the new lines of all nodes; remove and yield those where the command has ended, with its exit code."""
    for name, node in list(running.items()):
        lines, code = node.poll()
        for line in lines:
            print(f"{name}: {line}", file=sys.stderr, flush=True)
        if code is not None:
            del running[name]
            yield name, code


def _stop(running: Mapping[str, NodeProcess | RemoteProcess]) -> bool:
    for node in running.values():
        node.stop()
    return True


@contextmanager
def _reserved(count: int, processes: int, wants_gpu: bool) -> Iterator[tuple[list[Any], int]]:
    """Yield a NodeProcess on each of `count` nodes of the cluster, and the number of CPUs that each has."""
    connect(address_of_environment())
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Place

    resources = resources_of_node(
        [node["Resources"] for node in ray.nodes() if node["Alive"]], count, processes, wants_gpu
    )
    group = ray.util.placement_group([resources] * count, strategy="STRICT_SPREAD")
    try:
        if not group.wait(RESERVE_SECONDS):
            raise BadInput(
                f"no {count} nodes of the Ray cluster had {_words(resources)} free for {RESERVE_SECONDS:g} s. "
                "Wait until other work has ended (`ray status` shows it), or lower launch.nodes."
            )
        remote = ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(NodeProcess)
        yield (
            [
                remote.options(scheduling_strategy=Place(group, placement_group_bundle_index=number)).remote(
                    str(Path.cwd())
                )
                for number in range(count)
            ],
            resources["CPU"],
        )
    finally:
        ray.util.remove_placement_group(group)  # it ends the processes, too


def resources_of_node(
    nodes: Sequence[Mapping[str, float]], count: int, processes: int, wants_gpu: bool
) -> dict[str, int]:
    """Return what to reserve on each of `count` nodes: the CPUs that so many nodes have, and a GPU for each process.

    nodes: the resources of each one. Raises BadParams if there are too few.
    """
    gpus = processes if wants_gpu and any(node.get("GPU", 0) for node in nodes) else 0
    cpus = sorted((int(node.get("CPU", 0)) for node in nodes if node.get("GPU", 0) >= gpus), reverse=True)
    cpus = [number for number in cpus if number]  # the head of a cluster may be closed to work
    if len(cpus) < count:
        raise BadParams(
            f"launch.nodes is {count}, but {len(cpus)} nodes of the Ray cluster have "
            f"{_words({'CPU': 1} | ({'GPU': gpus} if gpus else {}))}. Add nodes by `ray start --address`, or lower "
            "launch.nodes or launch.processes (docs/cluster.md)."
        )
    return {"CPU": cpus[count - 1]} | ({"GPU": gpus} if gpus else {})


def _words(resources: Mapping[str, int]) -> str:
    return " and ".join(f"{number} {name}{'s' if number > 1 else ''}" for name, number in resources.items())
