"""A stage in several processes, on one machine or many: torchrun starts them, and `launch.strategy` is how they share.

When a process dies the attempt ends everywhere and the next goes on from the last checkpoint. On several nodes the
first runs the flow; the others, which see the same files, wait for it and join every attempt:

    python -m tasks.training.parallel.launch .run/checkpoints/pretrain
"""

import argparse
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import catalog, errors
from tasks.errors import BadInput, BadParams
from tasks.files import read_json, write_json
from tasks.reports import Report, Timings
from tasks.training.parallel.strategies import ENDPOINT, Launch

STAGES = "tasks.training.stages"
WORKER = "tasks.training.parallel.worker"
MAX_ATTEMPTS = 3
JOB, ENDED = "job.json", "ended.pickle"
POLL_SECONDS = 0.5


def train(stage: str, params: Any, data: Path, checkpoints: Path, timings: Timings) -> Report:
    """Run `stage` as `params.launch` says, or here where that is one process. Raises what the stage raises."""
    launch: Launch | None = getattr(params, "launch", None)
    if launch is None or launch.count == 1:
        report: Report = catalog.find(STAGES, stage).train(params, data, checkpoints, timings)
        return report
    endpoint(launch)
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / ENDED).unlink(missing_ok=True)
    job = {"stage": stage, "params": params.model_dump(mode="json"), "data": str(data)}
    for attempt in range(1, MAX_ATTEMPTS + 1):
        write_json(checkpoints / JOB, {**job, "attempt": attempt})
        _agent(launch, checkpoints, attempt, is_first=True)
        if (checkpoints / ENDED).is_file():
            return _result(checkpoints / ENDED, timings)
        print(f"{stage}: a process died in attempt {attempt} of {MAX_ATTEMPTS}", file=sys.stderr, flush=True)
    raise BadInput(f"{stage} lost a process in each of {MAX_ATTEMPTS} attempts: is there memory for {launch.count}?")


def endpoint(launch: Launch) -> str | None:
    """host:port where the nodes meet; None on one machine. Raises BadParams where nobody says it."""
    if launch.nodes == 1:
        return None
    found = launch.rendezvous or os.environ.get(ENDPOINT)
    if not found:
        raise BadParams(
            f"launch.nodes is {launch.nodes}, and nothing says where they meet: give launch.rendezvous or the variable "
            f"{ENDPOINT}, host:port of the first node"
        )
    return found


def _agent(launch: Launch, checkpoints: Path, attempt: int, is_first: bool) -> int:
    """One torchrun on this node; it is gone when this returns, however it ended. Its exit code."""
    threads = max(1, (os.cpu_count() or 1) // launch.processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(launch.processes)]
    where = endpoint(launch)
    if where is None:
        command.append("--standalone")
    else:
        command += ["--nnodes", str(launch.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", where]
        command += ["--rdzv-id", f"{checkpoints.name}-{attempt}", "--rdzv-conf", f"is_host={int(is_first)}"]
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    with subprocess.Popen([*command, "-m", WORKER, str(checkpoints)], env=environment) as torchrun:
        try:
            return torchrun.wait()
        except BaseException:  # Ctrl-C, SIGTERM, Prefect's TerminationSignal: the processes write a checkpoint first
            torchrun.terminate()
            torchrun.wait()
            raise


def _result(file: Path, timings: Timings) -> Report:
    """What the first process left: its report, or the user's error that ended it. Ours, so unpickling is safe."""
    kind, content, seconds = pickle.loads(file.read_bytes())
    if kind == "error":
        raise getattr(errors, content[0])(content[1])
    timings.values.update(seconds)
    report: Report = content
    return report


def join(folder: Path) -> None:
    """Be another node of the stage whose checkpoints lie in `folder`, attempt after attempt, until it has ended."""
    joined: tuple[Path, int] | None = None
    while True:
        found = _newest_job(folder)
        if found is None and joined is not None:
            return
        if found is not None and (found[0], found[1]["attempt"]) != joined:
            checkpoints, job = found
            joined = checkpoints, job["attempt"]
            if _agent(Launch(**job["params"]["launch"]), checkpoints, job["attempt"], is_first=False) == 0:
                return
        time.sleep(POLL_SECONDS)


def _newest_job(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The newest stage below `folder` that has not ended."""
    found = [path for path in (*folder.glob(JOB), *folder.glob(f"*/{JOB}")) if not (path.parent / ENDED).is_file()]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return newest.parent, read_json(newest)


def main() -> None:
    """Join the stage that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.training.parallel.launch",
        description="Join the training of a stage as a further node. The first node runs the stage's flow.",
    )
    parser.add_argument("checkpoints", type=Path, help="a folder of checkpoints, such as .run/checkpoints/pretrain")
    join(parser.parse_args().checkpoints)


if __name__ == "__main__":
    main()
