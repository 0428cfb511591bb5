"""Flow runs with Prefect's embedded server: it starts while the modules are imported, ignores Ctrl-C, and is quiet."""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from flows.runtime import environment, processes, request_guard
from flows.runtime.environment import DATABASE, RUN
from tasks.files import read_json, write_json

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

T = TypeVar("T")

CODE = Path(__file__).parents[2]
EMBEDDED = RUN / "embedded"  # which process has started which server, one file per process


def flow_run(prepare: Callable[[], object], work: Callable[[], T]) -> T:
    """Call `prepare` (checks and imports) while Prefect's server starts, then `work`, which runs flows."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    environment.make_folder()
    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        prepare()
        with contextlib.suppress(Exception):  # the work does not depend on the states of earlier runs
            processes.close_dead_runs()
    else:
        from prefect.server.api.server import SubprocessASGIServer

        SubprocessASGIServer._run_uvicorn_command = lambda self: _run_guarded_server(self)  # type: ignore[method-assign]
        start = threading.Thread(target=_start, args=(SubprocessASGIServer(),), daemon=True)
        start.start()
        prepare()
        start.join()
        if _has_own_database() and not _has_other_server():
            mark_crashed_runs()
    with _quiet():
        return work()


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


def _start(server: "SubprocessASGIServer") -> None:
    """Start the server that Prefect would start at the first call.

    The thread blocks SIGINT, and the server inherits this: Ctrl-C in a terminal reaches all processes of the terminal,
    and without its server the flow could not record that it was interrupted.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    stop_orphans()
    server.start()
    if server.server_process is not None:
        record_server(server.server_process.pid)


def _run_guarded_server(server: "SubprocessASGIServer") -> "subprocess.Popen[Any]":
    """Start the process of the embedded server: as Prefect does, but behind RequestGuard and ending with this process.

    Its API asks for the key that the clients of this process have (flows/runtime/environment.py).
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, get_current_settings

    key = PREFECT_API_AUTH_STRING.value()
    arguments = ["--host", "127.0.0.1", "--port", str(server.port), "--log-level", "error", "--lifespan", "on"]
    app = ["--app-dir", str(CODE), "--factory", "flows.runtime.server_apps:embedded_app"]
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", *app, *arguments],
        umask=0o077,
        env={
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
            **dict.fromkeys(("PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL"), "1"),
            **({environment.SERVER_KEY: str(getattr(key, "get_secret_value", lambda: key)())} if key else {}),
            "PREFECT_UI_ENABLED": "0",
            request_guard.HOSTS: ",".join(request_guard.hosts_of(str(server.port))),
            processes.PARENT: str(os.getpid()),
        },
    )


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
def _quiet() -> Iterator[None]:
    """Leave errors to `command.guarded`, and send heartbeats only to a server that outlives this process."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_not_about_an_error)
    # Each flow run waits up to a second for its heartbeat to stop; the embedded server ends with this process anyway.
    with temporary_settings({} if PREFECT_API_URL.value() else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _is_not_about_an_error(record: logging.LogRecord) -> bool:
    """Reject Prefect's log records of errors: `command.guarded` prints each error once."""
    return not (record.name.startswith(("prefect.flow_runs", "prefect.task_runs")) and record.levelno >= logging.ERROR)
