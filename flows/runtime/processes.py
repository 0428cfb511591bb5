"""Which process runs which flow run of Prefect, so that runs whose process was killed do not stay Running.

One file per flow run under .run/processes. Prefect itself notices a dead process only while the worker that started it
lives. And processes that end when the one that started them does, also after `kill -9`: otherwise they would go on
writing, to outputs or to a database, while the next run does the same.
"""

import contextlib
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from flows.runtime import environment, spool
from tasks.files import read_json, write_json

FOLDER = environment.RUN / "processes"
MESSAGE = "its process was killed"
PARENT = "ATHANOR_PARENT"  # the id of the process that this one ends with
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0


def record(flow_run_id: str) -> None:
    """Record that this process runs a flow run of a server that outlives it.

    Those of the embedded server are closed by the next command (see flows/runtime/embedded.py).
    """
    if not os.environ.get("PREFECT_API_URL"):
        return
    with contextlib.suppress(OSError):  # then Prefect's own means have to suffice
        write_json(environment.home() / FOLDER / f"{flow_run_id}.json", spool.process_identity())


def dead_runs() -> list[tuple[str, Path]]:
    """Return (flow run, file) of the recorded runs whose process has ended."""
    runs = []
    for file in sorted((environment.home() / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if not spool.is_alive(read_json(file)):
                runs.append((file.stem, file))
    return runs


def close_dead_runs() -> int:
    """Set the runs that Prefect shows as running, and whose process has ended, to Crashed. Return their number."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    recorded = dead_runs()
    if not recorded and environment.server("prefect") is None:
        return 0
    ids, num_closed = dict.fromkeys(run_id for run_id, _ in recorded), 0
    with get_client(sync_client=True) as client:
        for run_id in [*ids, *(run_id for run_id in _abandoned_runs(client) if run_id not in ids)]:
            with contextlib.suppress(ObjectNotFound):  # it was deleted, or belongs to another server
                run: Any = client.read_flow_run(run_id)  # type: ignore[arg-type]
                if run.state is not None and not run.state.is_final():
                    client.set_flow_run_state(run.id, Crashed(message=MESSAGE), force=True)
                    num_closed += 1
    for _, file in recorded:
        file.unlink(missing_ok=True)
    return num_closed


def _abandoned_runs(client: Any) -> list[str]:
    """Return the runs of deployments whose process ended before it recorded itself, or whose worker ended before.

    They hold the slot of their deployment. A database that is not this project's may have runs of other machines.
    """
    from prefect.client.schemas.filters import FlowRunFilter

    if os.environ.get(environment.DATABASE) != environment.defaults()[environment.DATABASE]:
        return []
    unfinished = FlowRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
    worker = environment.server("worker")
    began = worker.create_time() if worker else 0.0
    runs = client.read_flow_runs(flow_run_filter=unfinished)
    return [str(run.id) for run in runs if run.work_pool_name and is_abandoned(run, began)]


def is_abandoned(run: Any, worker_began: float) -> bool:
    """Whether the process of a run of a deployment has ended. worker_began: when the present worker started."""
    since = run.state.timestamp.timestamp() if run.state else time.time()
    pid = str(run.infrastructure_pid or "").split(":")[-1]
    if not pid.isdigit():
        return bool(since < worker_began)  # an earlier worker took the run and did not start its process
    try:
        began = psutil.Process(int(pid)).create_time()
    except psutil.Error:
        return True
    # The system may have given the number to another process, which began after the run was running.
    return bool(run.state is not None and run.state.type == "RUNNING" and began > since)


def gpu_limits() -> list[str]:
    """Return the names of Prefect's concurrency limits of the GPUs of this machine that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
        devices = [[part.strip() for part in line.split(",")] for line in lines if "," in line]
        chosen = None if visible is None else {part.strip() for part in visible.split(",")}
        host = platform.node().split(".")[0] or "localhost"
        return [f"gpu-{host}-{index}" for index, uuid in devices if chosen is None or chosen & {index, uuid}]
    return []


@contextlib.contextmanager
def occupied_gpus(device: str | None) -> Iterator[None]:
    """Hold the slot of each GPU while the block runs, and wait for those that another run holds.

    device: the param of the stage; None for a stage that uses no GPU. Only a lasting server knows other runs. Limits
    that do not exist there are ignored (`make up` makes them).
    """
    names = gpu_limits() if device not in (None, "cpu") and os.environ.get("PREFECT_API_URL") else []
    if not names:
        yield
        return
    from prefect.concurrency.sync import concurrency

    with concurrency(names, occupy=1):  # all in one call, so that two runs cannot wait for each other
        yield


def end_with_parent() -> None:
    """Watch the parent in a thread; end this process by SIGTERM, then by SIGKILL, when the parent has ended.

    Linux has a signal for this (PR_SET_PDEATHSIG), but it arrives when the thread ends that started the process.
    """
    expected = os.environ.pop(PARENT, "")  # not for the children of this process
    if expected.isdigit():
        threading.Thread(target=_watch, args=(int(expected),), name="parent", daemon=True).start()


def end_with(pid: int) -> None:
    """Do the same for a process that is not the parent, such as the `dvc repro` whose shell has started this one."""
    threading.Thread(target=_watch_process, args=(pid,), name="parent", daemon=True).start()


def _watch_process(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(POLL_SECONDS)
    _end()


def _watch(expected: int) -> None:
    while os.getppid() == expected:
        time.sleep(POLL_SECONDS)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
