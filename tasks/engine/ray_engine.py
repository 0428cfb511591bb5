"""The engine on a Ray cluster: Ray schedules tasks and repeats those whose worker has died; results are files.

The workers need the project and its environment at the same paths as the driver, which is started in the folder of the
project, and a file system that all share. Nothing is put into Ray's object store but the record of each part, which is
a few hundred bytes.
"""

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Generator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from tasks.engine.engine import MAX_ATTEMPTS, TASK_SECONDS, Crash, Engine, Part, Task
from tasks.engine.worker import decode_outcome, outcome_of
from tasks.errors import BadInput, BadParams

IN_FLIGHT_PER_CPU = 2  # tasks that wait for a CPU or run on it; more would only fill Ray's queue
RESOURCES_SECONDS = 10.0  # how often the driver asks how many CPUs the cluster has
CONNECT_SECONDS = 10.0  # how long the head may take to accept a connection
END_SECONDS = 30.0  # how long the driver waits for tasks that it has canceled after an error


class RayEngine(Engine):
    """Runs tasks as Ray tasks of `cpus_per_task` CPUs; those that want a GPU, in one actor for each GPU.

    address: of the head, as of RAY_ADDRESS; "auto" is the cluster that runs on this machine. Raises BadParams without
    Ray, or if the cluster does not answer.
    """

    def __init__(
        self,
        folder: Path,
        address: str = "auto",
        cpus_per_task: int = 1,
        task_seconds: float | None = TASK_SECONDS,
    ) -> None:
        super().__init__(folder, task_seconds)
        self._address, self._cpus_per_task = address, cpus_per_task

    def close(self) -> None:
        """Do nothing: the workers belong to the cluster, which ends them when this process ends."""

    def _outcomes(self, tasks: list[Task]) -> Generator[Part | Crash, None, None]:
        connect(self._address)
        import ray

        actors = self._gpu_actors() if tasks[0].wants_gpu else []
        remote = _remote_function().options(num_cpus=self._cpus_per_task, max_retries=MAX_ATTEMPTS - 1)
        idle = deque(actor.run.options(max_task_retries=MAX_ATTEMPTS - 1) for actor in actors)
        pending, running, limit, asked = deque(tasks), dict[Any, tuple[Task, Any]](), len(idle), 0.0
        try:
            while pending or running:
                if not actors and (time.monotonic() - asked > RESOURCES_SECONDS or not asked):
                    limit, asked = self._max_in_flight(), time.monotonic()
                while pending and len(running) < limit:
                    task, function = pending.popleft(), idle.popleft() if actors else remote
                    running[function.remote(asdict(task), self.task_seconds, str(Path.cwd()))] = task, function
                finished, _ = ray.wait(list(running), num_returns=1, timeout=RESOURCES_SECONDS, fetch_local=False)
                if finished:  # and all others that have finished meanwhile
                    finished, _ = ray.wait(list(running), num_returns=len(running), timeout=0, fetch_local=False)
                for reference in finished:
                    task, function = running.pop(reference)
                    if actors:
                        idle.append(function)
                    yield self._take(reference, task)
        finally:
            for actor in actors:
                ray.kill(actor)
            for reference in running if not actors else ():
                ray.cancel(reference, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=END_SECONDS)

    def _gpu_actors(self) -> list[Any]:
        """Start one process for each GPU that is free. It ends with the stage, which frees the memory of its GPU."""
        import ray

        if not ray.cluster_resources().get("GPU", 0):
            return []
        # A process keeps the GPU that it has first used, but Ray may give its next task another one: so these are
        # actors. At least one of them, which then waits until a GPU is free.
        num_gpus = max(1, int(ray.available_resources().get("GPU", 0)))
        options = {"num_cpus": self._cpus_per_task, "num_gpus": 1, "max_restarts": -1}
        return [_actor_class().options(**options).remote() for _ in range(num_gpus)]

    def _max_in_flight(self) -> int:
        import ray

        return max(2, IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1)) // self._cpus_per_task)

    def _take(self, reference: Any, task: Task) -> Part | Crash:
        import ray

        try:
            outcome = ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise  # an error in the worker before or after the task, which another attempt would repeat
        except ray.exceptions.RayError as error:
            late = f" or took longer than {self.task_seconds:g} s" if self.task_seconds else ""
            reason = f"its worker died{late}, in each of {MAX_ATTEMPTS} attempts ({type(error).__name__})"
            return Crash(task.key, reason)
        return decode_outcome(outcome)


def connect(address: str) -> None:
    """Connect this process to the cluster at `address`, once. Raises BadParams."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BadParams("engine: ray needs the package ray; install it by `pip install -e '.[ray]'`") from error
    if not ray.is_initialized():
        try:
            host, _, port = address.rpartition(":")
            if host and port.isdigit():  # Ray would wait for minutes
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(address=address, logging_level="ERROR", log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises ConnectionError, RuntimeError and others for a head that is not there
            raise BadParams(
                f"engine: no Ray cluster answers at {address} ({error}). Start one by `ray start --head`, or set "
                "RAY_ADDRESS to its address (docs/cluster.md)."
            ) from error


@cache
def _remote_function() -> Any:
    """Return `_execute` as a function of Ray. One for all stages: Ray sends each new one to every worker."""
    import ray

    # Without an event for each change of a task's state, which nothing here reads.
    return ray.remote(retry_exceptions=False, scheduling_strategy="SPREAD", enable_task_events=False)(_execute)


class _Actor:
    """A process that runs one task after another."""

    def run(self, task: dict[str, Any], task_seconds: float | None, folder: str) -> dict[str, Any]:
        """As `_execute`."""
        return _execute(task, task_seconds, folder)


@cache
def _actor_class() -> Any:
    import ray

    return ray.remote(scheduling_strategy="SPREAD", enable_task_events=False)(_Actor)


def _execute(task: dict[str, Any], task_seconds: float | None, folder: str) -> dict[str, Any]:
    """Run one task in a Ray worker. Errors come back as values, so that Ray repeats only what died.

    folder: the working folder of the driver, to which paths in params are relative.
    """
    os.chdir(folder)
    # The alarm ends the process, also within machine code; Ray then repeats the task.
    signal.setitimer(signal.ITIMER_REAL, task_seconds or 0)
    try:
        return outcome_of(Task(**task))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def address_of_environment() -> str:
    """Return the address of the cluster that RAY_ADDRESS names; without it, the cluster on this machine."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address.startswith("ray://"):
        raise BadInput(
            f"RAY_ADDRESS is {address}: Ray Client is not supported, because the driver needs the files of the workers."
            " Run the command on a machine of the cluster, with RAY_ADDRESS=auto or the address HOST:6379."
        )
    return address
