"""Flow runs against Prefect's embedded server: started while we import the rest, untouched by Ctrl-C, and quiet."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from flows.runtime import environment
from flows.runtime.environment import DATABASE, RUN
from tasks.files import read_json, write_json

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer

T = TypeVar("T")

EMBEDDED = RUN / "embedded"  # who started which server, one file per process


def flow_run(prepare: Callable[[], object], work: Callable[[], T]) -> T:
    """`work`, which runs flows, after `prepare` (checks, imports), beside which Prefect's server starts."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        prepare()
    else:
        from prefect.server.api.server import SubprocessASGIServer

        starting = threading.Thread(target=_start, args=(SubprocessASGIServer(),), daemon=True)
        starting.start()
        prepare()
        starting.join()
        if _is_ours() and not _others():
            end_forgotten()
    with _quiet():
        return work()


def _start(server: "SubprocessASGIServer") -> None:
    """Start the server that Prefect would start at the first call.

    In a thread that blocks SIGINT, which the server inherits: Ctrl-C in a terminal goes to all processes there, and
    without its server the flow could not say that it was interrupted.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    end_orphans()
    server.start()
    if server.server_process is not None:
        note_server(server.server_process.pid)


def note_server(pid: int) -> None:
    """Write down that this process has started the server `pid`."""
    owner = psutil.Process()
    with contextlib.suppress(OSError, psutil.Error):
        started = {"server": _identity(psutil.Process(pid)), "owner": _identity(owner)}
        write_json(EMBEDDED / f"{owner.pid}.json", started)


def end_orphans() -> None:
    """Stop the servers of processes that were killed: kill -9 leaves nobody who would."""
    for file in EMBEDDED.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            known = read_json(file)
            if _alive(known["owner"]) is None:
                orphan = _alive(known["server"])
                file.unlink()
                if orphan is not None:
                    orphan.terminate()


def end_forgotten() -> None:
    """Say of the flow runs in this project's database that they crashed: none of those who ran them is alive.

    Prefect hears nothing of a kill -9, and would show them as running for ever.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.states import Crashed

    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
    # whatever the server may answer: the work does not need it
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=unfinished):
            client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)


def _is_ours() -> bool:
    """Whether Prefect's database is this project's own: another may hold what runs elsewhere."""
    return os.environ.get(DATABASE) == environment.defaults()[DATABASE]


def _others() -> bool:
    """Whether another process has a server here."""
    known = (read_json(file)["owner"] for file in EMBEDDED.glob("*.json") if file.stem != str(os.getpid()))
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        return any(_alive(owner) is not None for owner in known)
    return True


def _identity(process: psutil.Process) -> list[Any]:
    return [process.pid, process.create_time()]


def _alive(identity: list[Any]) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(identity[0])
        if process.create_time() == identity[1] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Errors are left to `command.guarded`; heartbeats are paid for only where somebody listens."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_not_about_an_error)
    # Each flow run waits up to a second for its heartbeat to stop; the embedded server ends with this process anyway.
    with temporary_settings({} if PREFECT_API_URL.value() else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _is_not_about_an_error(record: logging.LogRecord) -> bool:
    """Drop what Prefect says about errors: those of users are told in one line, ours by their own traceback."""
    return not (record.name.startswith(("prefect.flow_runs", "prefect.task_runs")) and record.levelno >= logging.ERROR)
