"""The engine in processes of this machine. With 0 workers, tasks run in the calling process, one after another."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.engine.engine import MAX_ATTEMPTS, TASK_SECONDS, Crash, Engine, Part, Task, execute
from tasks.engine.worker import decode_outcome

PROJECT = Path(__file__).parents[2]


class LocalEngine(Engine):
    """Runs tasks in `workers` processes, which stay for all stages until `close`; with 0, in the calling process."""

    def __init__(self, folder: Path, workers: int = 0, task_seconds: float | None = TASK_SECONDS) -> None:
        super().__init__(folder, task_seconds)
        self._workers = [_Worker() for _ in range(workers)]

    def close(self) -> None:
        """End the worker processes."""
        for worker in self._workers:
            worker.stop()

    def _outcomes(self, tasks: list[Task]) -> Generator[Part | Crash, None, None]:
        if not self._workers:
            yield from map(execute, tasks)
            return
        pending, attempts = deque(tasks), Counter[str]()
        try:
            while pending or any(worker.task for worker in self._workers):
                for worker in self._workers:
                    if worker.task is None and pending:
                        worker.start(pending.popleft())
                for worker in _ready(self._workers, self.task_seconds):
                    task, outcome = worker.take()
                    if isinstance(outcome, Part):
                        yield outcome
                        continue
                    attempts[task.key] += 1
                    if attempts[task.key] < MAX_ATTEMPTS:
                        pending.appendleft(task)
                    else:
                        yield Crash(task.key, f"{outcome}, in each of {MAX_ATTEMPTS} attempts")
        finally:
            for worker in self._workers:
                if worker.task is not None:  # after an error of another task
                    worker.stop()


class _Worker:
    """One worker process and the task that it runs now, None while it has none."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.since, self.late = 0.0, ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def output(self) -> Any:
        """What the driver waits for: the pipe on which outcomes come."""
        assert self._process is not None
        return self._process.stdout

    def start(self, task: Task) -> None:
        """Give a task to the process, or to a new one after the previous one has ended."""
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        if self._process is None:
            path = os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
            command = [sys.executable, "-m", "tasks.engine.worker"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
            )
        self.task, self.since, self.late = task, time.monotonic(), ""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; `take` says so
            self._process.stdin.write(json.dumps(asdict(task)) + "\n")
            self._process.stdin.flush()

    def take(self) -> tuple[Task, Part | str]:
        """Return the task with its part, or with the reason why there is none. Raises what its function raised."""
        assert self._process is not None
        assert self.task is not None
        task, self.task = self.task, None
        line = self.output.readline()
        if not line.endswith("\n"):  # the pipe has ended, because the process has
            code = self._process.wait()
            self.stop()
            return task, self.late or f"its worker process ended with exit code {code}"
        return task, decode_outcome(json.loads(line))

    def kill(self, seconds: float) -> None:
        """End the process of a task that takes longer than `seconds`; `take` then reports it."""
        assert self._process is not None
        self._process.kill()
        self.late = f"it took longer than {seconds:g} s"

    def stop(self) -> None:
        """End the process and close its pipes."""
        self.task = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()
            self._process = None


def _ready(workers: list[_Worker], task_seconds: float | None) -> list[_Worker]:
    """Wait until a worker has an outcome or has ended; return those. A task that takes too long ends its worker."""
    active = [worker for worker in workers if worker.task is not None]
    with selectors.DefaultSelector() as selector:
        for worker in active:
            selector.register(worker.output, selectors.EVENT_READ, worker)
        timeout = None
        if task_seconds is not None:
            timeout = max(0.0, min(worker.since for worker in active) + task_seconds - time.monotonic())
        ready = [key.data for key, _ in selector.select(timeout)]
    if not ready and task_seconds is not None:
        ready = [worker for worker in active if time.monotonic() - worker.since >= task_seconds]
        for worker in ready:
            worker.kill(task_seconds)
    return ready
