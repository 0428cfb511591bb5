"""The engine on a Ray cluster: Ray schedules tasks and repeats those whose worker has died; results are files.

The workers need the project and its environment at the same paths as the driver, and a file system that all share.
Nothing is put into Ray's object store but the record of each part, which is a few hundred bytes.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.engine import engine
from tasks.engine.engine import Crash, Function, Manifest, Part, Results, Task, ignore_result
from tasks.engine.worker import decode_error, encode_error
from tasks.errors import BadInput, BadParams

PROJECT = Path(__file__).parents[2]
MAX_RETRIES = 3  # of a task whose worker process or machine has died
IN_FLIGHT_PER_CPU = 2  # tasks that wait for a CPU or run on it; more would only fill Ray's queue
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RayEngine:
    """Runs stages below `folder` as Ray tasks of `cpus_per_task` CPUs. task_seconds: longer tasks count as hanging.

    address: of the head, as of RAY_ADDRESS; "auto" is the cluster that runs on this machine.
    """

    folder: Path
    address: str = "auto"
    cpus_per_task: int = 1
    task_seconds: float | None = None

    def run(
        self,
        stage: str,
        keys: Sequence[str],
        function: Function,
        inputs: Mapping[str, Any],
        on_result: Results = ignore_result,
    ) -> Manifest:
        """Call function(folder, inputs[key]) for each key that is not complete. Return what is complete afterwards.

        A key whose worker dies in MAX_RETRIES + 1 attempts is quarantined. Raises whatever `function` raises, and
        BadParams without Ray, or if the cluster does not answer.
        """
        connect(self.address)
        folder = self.folder.absolute() / stage  # workers have other working folders
        return engine.run(folder, keys, function, inputs, self._outcomes, on_result)

    def _outcomes(self, tasks: list[Task]) -> Iterator[Part | Crash]:
        import ray

        options = {"num_cpus": self.cpus_per_task, "max_retries": MAX_RETRIES, "retry_exceptions": False}
        remote = ray.remote(_execute).options(**options, scheduling_strategy="SPREAD")
        pending, running, late = deque(tasks), dict[Any, tuple[Task, float]](), Counter[str]()
        try:
            while pending or running:
                limit = max(2, IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1)) // self.cpus_per_task)
                while pending and len(running) < limit:
                    task = pending.popleft()
                    running[remote.remote(str(PROJECT), asdict(task))] = task, time.monotonic()
                finished, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
                for reference in finished:
                    task, _ = running.pop(reference)
                    outcome = _take(reference, task)
                    if isinstance(outcome, Crash) and late[task.key] and late[task.key] <= MAX_RETRIES:
                        pending.appendleft(task)  # it was canceled, because it took too long
                    else:
                        yield outcome
                for reference, (task, since) in running.items():
                    if self.task_seconds is not None and time.monotonic() - since > self.task_seconds:
                        late[task.key] += 1
                        running[reference] = task, time.monotonic()
                        ray.cancel(reference, force=True)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


def connect(address: str) -> None:
    """Connect this process to the cluster at `address`, once. Raises BadParams."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BadParams("engine: ray needs the package ray; install it by `pip install -e '.[ray]'`") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray raises ConnectionError, RuntimeError and others for a head that is not there
            raise BadParams(
                f"engine: no Ray cluster answers at {address} ({error}). Start one by `ray start --head`, or set "
                "RAY_ADDRESS to its address (docs/cluster.md)."
            ) from error


def _execute(project: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run one task in a Ray worker. Errors come back as values, so that Ray repeats only what died."""
    import sys

    if project not in sys.path:
        sys.path.insert(0, project)
    try:
        return {"part": asdict(engine.execute(Task(**task)))}
    except Exception as error:
        return {"error": encode_error(error)}


def _take(reference: Any, task: Task) -> Part | Crash:
    import ray

    try:
        outcome = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Crash(task.key, f"its worker died in each of {MAX_RETRIES + 1} attempts ({type(error).__name__})")
    if "error" in outcome:
        raise decode_error(outcome["error"])
    return Part(**outcome["part"])


def address_of_environment() -> str:
    """Return the address of the cluster that RAY_ADDRESS names; without it, the cluster on this machine."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address.startswith("ray://"):
        raise BadInput(
            f"RAY_ADDRESS is {address}: Ray Client is not supported, because the driver needs the files of the workers."
            " Run the command on a machine of the cluster, with RAY_ADDRESS=auto or the address HOST:6379."
        )
    return address
