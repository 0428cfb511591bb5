"""Flow runs with Prefect's embedded server: it starts while the modules are imported, ignores Ctrl-C, and is quiet."""

import atexit
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil

from flows.runtime import environment, processes, request_guard
from flows.runtime.environment import DATABASE, RUN
from tasks.errors import BadInput
from tasks.files import read_json, write_json

T = TypeVar("T")

CODE = Path(__file__).parents[2]
EMBEDDED = RUN / "embedded"  # which process has started which server, one file per process
PORT_IN_USE = 3  # uvicorn's exit code
STOP_SECONDS = 5.0
# Work of a server that outlives a command: schedules, automations, late runs, retention.
NO_SERVICES = {
    "PREFECT_UI_ENABLED": "0",
    **{
        f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false"
        for name in ("SCHEDULER", "LATE_RUNS", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "FOREMAN", "TRIGGERS")
    },
}


def flow_run(prepare: Callable[[], object], work: Callable[[], T]) -> T:
    """Call `prepare` (checks and imports) while Prefect's server starts, then `work`, which runs flows.

    Raises BadInput if the server does not start.
    """
    environment.make_folder()
    if is_needed():
        stop_orphans()
        server = _Server()
        server.start()
        atexit.register(server.stop)  # after Prefect's thread has sent the last lines of the log, at exit too
        prepare()
        with _quiet(server.wait()):
            if _has_own_database() and not _has_other_server():
                mark_crashed_runs()
            return work()
    prepare()
    with contextlib.suppress(Exception):  # the work does not depend on the states of earlier runs
        processes.close_dead_runs()
    with _quiet():
        return work()


def is_needed() -> bool:
    """Whether flows of this process need a server of their own, because the settings of Prefect name none."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    return not PREFECT_API_URL.value() and bool(PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value())


@contextmanager
def without_server() -> Iterator[None]:
    """Make tasks of Prefect call their functions while the block lasts, as the pure code does without Prefect.

    A single stage without `make up` needs no server: the start of one costs five CPU-seconds, and nobody looks at its
    pages. MLflow receives the run all the same. Our tasks have no retries, cached results or timeouts of Prefect.
    """
    from prefect import Task

    original = Task.__call__
    Task.__call__ = _call_function  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Task.__call__ = original  # type: ignore[method-assign,assignment]


def _call_function(task: Any, *arguments: Any, **named: Any) -> Any:
    return task.fn(*arguments, **named)


def wait_for_an_absent_server() -> None:
    """Make every client of Prefect try again when the server refuses the connection, because it is restarted.

    Prefect does so in clients that have reached the server before, but each nested flow run has a new client. It does
    nothing for the embedded server, which nobody restarts.
    """
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    for kind in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        kind._has_connected = _Always()  # type: ignore[assignment]


class _Always:
    """An attribute that is always true, whatever is assigned to it."""

    def __get__(self, instance: object, owner: type) -> bool:
        return True

    def __set__(self, instance: object, value: object) -> None:
        return None


class _Server:
    """The process of the embedded server: as Prefect starts it, but behind RequestGuard and ending with this process.

    Prefect's own class needs the modules of the server in this process, whose import costs two CPU-seconds. The API
    asks for the key that the clients of this process have (flows/runtime/environment.py).
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[Any] | None = None
        self.port = 0

    def start(self) -> None:
        """Start the process; it ignores SIGINT.

        Ctrl-C in a terminal reaches all processes of the terminal, and without its server the flow could not record
        that it was interrupted.
        """
        from prefect.settings import PREFECT_API_AUTH_STRING, get_current_settings

        key = PREFECT_API_AUTH_STRING.value()
        self.port = _free_port()
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--log-level", "error", "--lifespan", "on"]
        app = ["--app-dir", str(CODE), "--factory", "flows.runtime.server_apps:embedded_app"]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the process inherits it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", *app, *arguments],
                umask=0o077,
                env={
                    **os.environ,
                    **get_current_settings().to_environment_variables(exclude_unset=True),
                    **dict.fromkeys(("PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL"), "1"),
                    **({environment.SERVER_KEY: str(getattr(key, "get_secret_value", lambda: key)())} if key else {}),
                    **NO_SERVICES,
                    request_guard.HOSTS: ",".join(request_guard.hosts_of(str(self.port))),
                    processes.PARENT: str(os.getpid()),
                },
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        record_server(self._process.pid)

    def wait(self) -> str:
        """Wait until the server answers and return the address of its API. Raises BadInput if it does not."""
        from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

        assert self._process is not None
        url = f"http://127.0.0.1:{self.port}/api"
        deadline = time.monotonic() + PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                return url
            if self._process.poll() == PORT_IN_USE:
                self.start()  # another program took the port meanwhile
            elif self._process.poll() is not None:
                raise BadInput(f"Prefect's embedded server ended with exit code {self._process.returncode}.")
            time.sleep(0.05)
        raise BadInput(
            "Prefect's embedded server did not answer in time. Start a server with `make up`, or set "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS to more seconds."
        )

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def record_server(pid: int) -> None:
    """Record that this process has started the server `pid`."""
    owner = psutil.Process()
    with contextlib.suppress(OSError, psutil.Error):
        record = {"server": _identity(psutil.Process(pid)), "owner": _identity(owner)}
        write_json(EMBEDDED / f"{owner.pid}.json", record)


def stop_orphans() -> None:
    """Stop the servers whose processes were killed: after `kill -9` nothing else stops them."""
    for file in EMBEDDED.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            record = read_json(file)
            if _process(record["owner"]) is None:
                orphan = _process(record["server"])
                file.unlink()
                if orphan is not None:
                    orphan.terminate()


def mark_crashed_runs() -> None:
    """Set unfinished flow runs in this project's database to Crashed; call it only while nothing else runs flows.

    Prefect does not notice a `kill -9` and would show these runs as running for ever.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Crashed

    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
    # Any error of the server is ignored, because the work does not depend on these states.
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished):
            client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)


def _has_own_database() -> bool:
    """Whether Prefect's database is this project's own; another one may contain runs of other machines."""
    return os.environ.get(DATABASE) == environment.defaults()[DATABASE]


def _has_other_server() -> bool:
    """Whether another living process has a server in this project; also true if that cannot be determined."""
    owners = (read_json(file)["owner"] for file in EMBEDDED.glob("*.json") if file.stem != str(os.getpid()))
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        return any(_process(owner) is not None for owner in owners)
    return True


def _identity(process: psutil.Process) -> list[Any]:
    """Return process id and time of start: the system reuses ids, and the time tells the processes apart."""
    return [process.pid, process.create_time()]


def _process(identity: list[Any]) -> psutil.Process | None:
    """Return the process of `_identity` if it still runs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(identity[0])
        if process.create_time() == identity[1] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


@contextmanager
def _quiet(embedded_url: str | None = None) -> Iterator[None]:
    """Leave errors to `command.guarded`, and send heartbeats only to a server that outlives this process."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_not_about_an_error)
    # Each flow run waits up to a second for its heartbeat to stop; the embedded server ends with this process anyway.
    settings = {PREFECT_API_URL: embedded_url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if embedded_url else {}
    with temporary_settings(settings):
        yield


def _is_not_about_an_error(record: logging.LogRecord) -> bool:
    """Reject Prefect's log records of errors: `command.guarded` prints each error once."""
    return not (record.name.startswith(("prefect.flow_runs", "prefect.task_runs")) and record.levelno >= logging.ERROR)
