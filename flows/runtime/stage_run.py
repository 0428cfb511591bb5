"""One run of one stage: typed params, checkpoints, the Prefect flow run, and its record for MLflow."""

import contextlib
import ctypes
import functools
import gc
import inspect
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.runtime import embedded, environment, params, processes, results, spool, tracking, versioning
from tasks import addresses
from tasks.addresses import Address
from tasks.errors import BadParams

FINISHED = "finished"  # a file among the checkpoints of a run that has written its outputs
NUM_KEPT_CHECKPOINTS = 2  # folders of interrupted runs with other params that are kept


def run_alone(stage: str, flow: Any) -> None:
    """Run `flow` as the stage `stage` in a flow run that is not nested: as DVC's command, or called by the user."""
    with versioning.current(stage) as versions:
        session = spool.Session.around_this_process()
        if session.pid:
            processes.end_with(session.pid)  # otherwise this process would write into outputs that the next run makes

        with_server = not embedded.is_needed()

        def work() -> None:
            with tracking.following():
                with versions.replacing_outputs():
                    record = run(flow, versions, session, with_server)
                record.write("finished")  # `dvc repro` commits after the end of this process

        def check() -> None:
            params.check_files(stage, params.load(stage))

        if with_server:
            embedded.flow_run(check, work)
        else:
            environment.make_folder()
            check()
            work()


def run(flow: Any, versions: versioning.Versions, session: spool.Session, with_server: bool = True) -> spool.Record:
    """Run `flow` in this process; inside another flow run it becomes a nested one. Return the record of the run.

    Without a server the function of the flow is called, and Prefect knows nothing of it.

    The flow receives those of `stage`, `params`, `data` and `checkpoints` that its function has a parameter for. The
    outputs are written then, but not committed: the caller calls `close` after DVC has committed them.
    """
    stage, checkpoints = versions.stage, _checkpoint_folder(versions.stage, versions.key)
    versions.verify_inputs()
    stage_params = params.load(stage)
    params.publish_engine()
    arguments = {"stage": stage, "params": stage_params, "data": Path("data"), "checkpoints": checkpoints}
    start, start_time = time.perf_counter(), time.time()
    print(f"{stage} ...", file=sys.stderr, flush=True)
    _warn_of_untracked_paths(versions, stage_params)
    _find_secrets(stage_params)
    with session.recording(stage, params.flatten(stage_params), versions.tags(), checkpoints / "steps.csv") as record:

        def add_flow_run_id(flow: Any, flow_run: Any, state: Any) -> None:  # Prefect passes these three by name
            record.body["tags"]["prefect.flow_run_id"] = str(flow_run.id)
            record.write("running")
            processes.record(str(flow_run.id))

        name = f"{stage} {versions.key[:8]}"
        accepted = {name: arguments[name] for name in inspect.signature(flow.fn).parameters if name in arguments}
        try:
            copy, seconds = _timed(
                flow, stage, flow_run_name=name, on_running=[*flow.on_running_hooks, add_flow_run_id]
            )
            if with_server:
                with processes.occupied_gpus(getattr(stage_params, "device", None)):
                    copy(**accepted)
            else:
                with embedded.without_server():
                    copy.fn(**accepted)
        finally:
            if _is_newer(Path("data/reports") / f"{stage}.json", start_time):  # also if it failed after its report
                results.show_summary(stage)
        record.body["tags"] |= versions.out_tags()
        record.body["card"] = results.card(stage)
    results.record(stage, time.perf_counter() - start, sum(seconds), record.peak_bytes)
    if checkpoints.is_dir():
        (checkpoints / FINISHED).touch()
    release_memory()
    return record


def release_memory() -> None:
    """Return the memory of a stage that has ended to the system; the next one runs in the same process.

    Models are part of reference cycles, so that only the collector frees them; glibc keeps what was freed for itself.
    """
    gc.collect()
    gc.freeze()  # the next collection passes over what is left, a million objects of modules, which take a second
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def close(record: spool.Record) -> None:
    """Record that the outputs of a run are committed, which registers its model, and delete its checkpoints.

    Until then a full disk or a kill can undo the outputs, and without checkpoints the run would start at step 0 again.
    """
    record.write("finished")
    shutil.rmtree(Path(record.body["steps"]).parent, ignore_errors=True)


def _timed(flow: Any, stage: str, **options: Any) -> tuple[Any, list[float]]:
    """Return a copy of `flow` with `options`, and a list to which its function appends its seconds.

    The machine code of the stage, which a check of its params may have left out, is compiled first.
    """
    seconds: list[float] = []
    copy = flow.with_options(**options)
    function = copy.fn

    @functools.wraps(function)
    def work(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            if compiled := sys.modules.get("tasks.compiled"):
                compiled.compile_waiting(f"tasks.{stage}")
            return function(*arguments, **named)
        finally:
            seconds.append(time.perf_counter() - start)

    copy.fn = work
    return copy, seconds


def _find_secrets(value: Any) -> None:
    """Take the variables of addresses that the environment lacks from Prefect's Secret blocks. Raises BadParams."""
    if isinstance(value, Address):
        for name in value.variables():
            if not addresses.has_value(name):
                addresses.set_value(name, _secret_block(name))
    elif isinstance(value, BaseModel):
        _find_secrets([getattr(value, name) for name in type(value).model_fields])
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            _find_secrets(part)


def _secret_block(name: str) -> str:
    from prefect.blocks.system import Secret

    block = name.lower().replace("_", "-")
    try:
        return str(Secret.load(block).get())  # type: ignore[union-attr]
    except Exception as error:  # there is no such block, or no server that answers
        raise BadParams(
            f"params.yaml contains ${{{name}}}, but the environment has no variable {name}, and Prefect has no Secret "
            f"block {block} ({type(error).__name__}). Set one of them."
        ) from None


def _is_newer(file: Path, start_time: float) -> bool:
    return file.is_file() and file.stat().st_mtime >= start_time - 1


def _warn_of_untracked_paths(versions: versioning.Versions, stage_params: BaseModel) -> None:
    """Warn of the paths in the params that are no dependencies of the stage in dvc.yaml."""
    leaves = params.flatten(stage_params).values()
    values = [value for leaf in leaves for value in (leaf if isinstance(leaf, list) else [leaf])]
    if paths := versions.untracked(path for path in values if isinstance(path, str) and "/" in path):
        print(
            f"warning: {versions.stage} reads files of which DVC does not notice changes. Add under "
            f"stages.{versions.stage}.deps in dvc.yaml: {', '.join(paths)}",
            file=sys.stderr,
        )


def _checkpoint_folder(stage: str, key: str) -> Path:
    """Return the folder of this run's checkpoints; delete those of other params except the newest few."""
    folder = environment.RUN / "checkpoints" / stage
    folders = sorted((p for p in folder.glob("*") if p.name != key), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in folders[NUM_KEPT_CHECKPOINTS:]:
        shutil.rmtree(old, ignore_errors=True)
    finished, lock = folder / key / FINISHED, Path(versioning.LOCK)
    if finished.is_file() and lock.is_file() and lock.stat().st_mtime > finished.stat().st_mtime:
        shutil.rmtree(folder / key, ignore_errors=True)  # committed since: this run repeats the stage from its start
    return folder / key
