"""One stage as a command: typed params in, the stage's flow run here, and every ending a message and an exit code."""

import contextlib
import errno
import gc
import importlib
import importlib.util
import inspect
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil
from pydantic import BaseModel

from flows.runtime import embedded, params, results, spool, tracking, versioning
from flows.runtime.environment import RUN
from tasks.errors import BadParams, UserError

INTERRUPTED = 130
GRACE_SECONDS = 8.0  # what Prefect may take to note that a run was interrupted
NUM_KEPT_CHECKPOINTS = 2  # of runs that were interrupted with other settings


def main(stage: str | None = None) -> NoReturn:
    """Run `stage`, or the stage named by the first argument, as a process."""
    sys.exit(guarded(lambda: alone(stage if stage else _argument())))


def alone(stage: str) -> None:
    """Run one stage on its own, or as DVC's command."""
    with tracking.following(), versioning.opened(stage) as versions:
        session = spool.Session.around_this_process()
        embedded.flow_run(lambda: (params.load(stage), _flow(stage)), lambda: run(versions, session))


def run(versions: versioning.Versions, session: spool.Session) -> None:
    """Run the flow of a stage in this process; within another flow run it becomes a nested one."""
    stage, checkpoints = versions.stage, _checkpoints(versions.stage, versions.key)
    dials = params.load(stage)
    offered = {"stage": stage, "params": dials, "data": Path("data"), "checkpoints": checkpoints}
    start = time.perf_counter()
    print(f"{stage} ...", file=sys.stderr, flush=True)
    _warn_of_unseen(versions, dials)
    with session.noted(stage, params.flatten(dials), versions.tags(), checkpoints / "steps.csv") as note:

        def note_flow_run(flow: Any, flow_run: Any, state: Any) -> None:  # Prefect asks for these names
            note.body["tags"]["prefect.flow_run_id"] = str(flow_run.id)
            note.write("running")

        flow = _flow(stage)
        wanted = {name: offered[name] for name in inspect.signature(flow.fn).parameters if name in offered}
        flow.with_options(flow_run_name=stage, on_running=[*flow.on_running_hooks, note_flow_run])(**wanted)
        note.body["tags"] |= versions.out_tags()
    results.record(stage, time.perf_counter() - start, note.peak_bytes)
    shutil.rmtree(checkpoints, ignore_errors=True)
    gc.collect()  # models hold themselves by cycles


def guarded(work: Callable[[], object]) -> int:
    """Do `work`; its exit code. What a user can mend is one message; anything else is a bug and keeps its traceback."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        work()
    except UserError as error:
        print(f"athanor: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not _disk_is_full(error):
            raise
        print(f"athanor: the disk is full ({error}). Make room and run again: the next run goes on.", file=sys.stderr)
        return 1
    return 0


def _warn_of_unseen(versions: versioning.Versions, dials: BaseModel) -> None:
    """Say which files that the params name are no deps of the stage."""
    values = [part for leaf in params.flatten(dials).values() for part in (leaf if isinstance(leaf, list) else [leaf])]
    for path in (value for value in values if isinstance(value, str) and "/" in value and versions.unseen(value)):
        print(
            f"warning: {versions.stage} reads {path}, and DVC will not see when that changes. "
            f"Add a line under stages.{versions.stage}.deps in dvc.yaml: {path}",
            file=sys.stderr,
        )


def _flow(stage: str) -> Any:
    if params.is_training(stage):
        return importlib.import_module("flows.training").training
    if importlib.util.find_spec(f"flows.{stage}") is None:
        raise BadParams(f"no stage {stage!r}; there are: {', '.join(params.stages())}")
    return getattr(importlib.import_module(f"flows.{stage}"), stage)


def _argument() -> str:
    if len(sys.argv) != 2:
        names = [name for name in params.stages() if params.is_training(name)]
        raise BadParams(f"which stage? python -m flows.training {' | '.join(names)}")
    return sys.argv[1]


def _checkpoints(stage: str, key: str) -> Path:
    """The folder for the checkpoints of this run; those of other settings are kept for the newest few."""
    folder = RUN / "checkpoints" / stage
    others = sorted((p for p in folder.glob("*") if p.name != key), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in others[NUM_KEPT_CHECKPOINTS:]:
        shutil.rmtree(old, ignore_errors=True)
    return folder / key


def _disk_is_full(error: BaseException) -> bool:
    seen = set[int]()
    here: BaseException | None = error
    while here is not None and id(here) not in seen:  # a cause that was raised again is in its own chain
        if getattr(here, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(here):
            return True
        seen.add(id(here))
        here = here.__cause__ or here.__context__
    return False


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """First Ctrl-C: stop in order, but within the grace; second: stop now. Whatever is on disk is whole."""
    signal.signal(signal.SIGINT, lambda *_: _leave())
    print("\nathanor: interrupted. What is done is kept; the next run goes on from there.", file=sys.stderr, flush=True)
    timer = threading.Timer(GRACE_SECONDS, _leave)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _leave() -> None:
    """End at once, and every process that we have started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(INTERRUPTED)
