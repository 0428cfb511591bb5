"""A stage in several processes, on one or several machines. torchrun starts them; `launch.strategy` shares the work.

When a process dies, the attempt ends in all of them, and the next attempt resumes from the last checkpoint. torchrun's
own restarts are not used: with gloo they never recover, because the address of the old store stays in use. With several
nodes, which see the same files, torchrun runs on nodes of the Ray cluster if the engine is Ray. Otherwise the first one
runs the flow; the others wait for it and join every attempt:

    python -m tasks.training.parallel.launch .run/checkpoints/pretrain
"""

import argparse
import hmac
import importlib
import os
import pickle
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
KEY = "result.key"  # a file that only this user can read; a process on another node reads it, too
OWNER = "ATHANOR_OWNER"  # the process whose end also ends the training processes that it has started
# How long threads wait actively: the default of a single process, which adapts it, and that of several, which do not
# (flows/runtime/thread_waits.py).
SPINS, SINGLE_PROCESS_SPINS, SPINS_OF_SEVERAL = "GOMP_SPINCOUNT", "100000", "1000"
THREADS = "OMP_NUM_THREADS"
POLL_SECONDS = 0.5


def train(stage: str, params: Any, data: Path, checkpoints: Path, timings: Timings) -> Report:
    """Run `stage` in the processes that `params.launch` asks for. Raises what the stage raises."""
    launch: Launch | None = getattr(params, "launch", None)
    if launch is None or launch.count == 1:
        report: Report = catalog.find(STAGES, kind(params)).train(params, data, checkpoints, timings, stage)
        return report
    ray_nodes = _ray_nodes(launch)
    if ray_nodes is None:
        endpoint(launch)
    checkpoints.mkdir(parents=True, exist_ok=True)
    (checkpoints / ENDED).unlink(missing_ok=True)
    key = _make_key(checkpoints)
    job = {"stage": stage, "kind": kind(params), "params": params.model_dump(mode="json"), "data": str(data)}
    for attempt in range(1, MAX_ATTEMPTS + 1):
        write_json(checkpoints / JOB, {**job, "attempt": attempt})
        if ray_nodes is None:
            _agent(launch, checkpoints, attempt, is_first=True)
        else:
            _agents_on_ray(ray_nodes, launch, checkpoints, attempt, getattr(params, "device", "cpu") != "cpu")
        if (checkpoints / ENDED).is_file():
            return _result(checkpoints / ENDED, key, timings)
        print(f"warning: {stage}: a process died in attempt {attempt} of {MAX_ATTEMPTS}", file=sys.stderr, flush=True)
    raise BadInput(
        f"{stage} lost a process in each of {MAX_ATTEMPTS} attempts. The usual reason is memory: lower "
        f"launch.processes (now {launch.count} in total) or micro_batch_size."
    )


def kind(params: Any) -> str:
    """The file of tasks/training/stages/ that `params` belong to; a stage of this kind may have any name."""
    return type(params).__module__.rsplit(".", 1)[-1]


def endpoint(launch: Launch) -> str | None:
    """host:port where the nodes meet; None on one machine. Raises BadParams where it is not set."""
    if launch.nodes == 1:
        return None
    address = launch.rendezvous or os.environ.get(ENDPOINT)
    if not address:
        raise BadParams(
            f"launch.nodes is {launch.nodes}, but the address where the nodes meet is not set. Set launch.rendezvous "
            f"or the variable {ENDPOINT} to host:port of the first node, or `engine: ray` to train on the nodes of a "
            "Ray cluster."
        )
    return address


def _ray_nodes(launch: Launch) -> Any:
    """The module that runs torchrun on the nodes of the Ray cluster; None where nodes are started by hand, or one node.

    It is imported by its name, so that dvc.yaml need not list the engine, whose changes make no model out of date.
    """
    if launch.nodes == 1 or launch.rendezvous or os.environ.get(ENDPOINT):
        return None
    module: Any = importlib.import_module("tasks.training.parallel.ray_nodes")
    return module if module.is_engine() else None


def _agents_on_ray(ray_nodes: Any, launch: Launch, checkpoints: Path, attempt: int, wants_gpu: bool) -> None:
    """Run torchrun on `launch.nodes` nodes of the Ray cluster until it has ended on all of them."""

    def command(number: int, ip: str, address: str) -> list[str]:
        # Other nodes may not know the host name of this one, which torchrun would tell them.
        return _command(launch, checkpoints, attempt, address, is_first=number == 0, options=["--local-addr", ip])

    def variables(num_cpus: int) -> dict[str, str]:
        every = environment(launch.processes, num_cpus)
        return {name: every[name] for name in (THREADS, SPINS) if name in every}

    ray_nodes.run(launch.nodes, launch.processes, wants_gpu, command, variables, OWNER)


def _agent(launch: Launch, checkpoints: Path, attempt: int, is_first: bool) -> int:
    """Run torchrun on this node until it ends, and return its exit code. It never outlives this call."""
    command = _command(launch, checkpoints, attempt, endpoint(launch), is_first)
    with subprocess.Popen(command, env=environment(launch.processes)) as torchrun:
        try:
            return torchrun.wait()
        except BaseException:  # Ctrl-C, SIGTERM, Prefect's TerminationSignal: the processes write a checkpoint first
            # torchrun passes the signal on to its processes, so wait for their last step and checkpoint.
            torchrun.terminate()
            torchrun.wait()
            raise


def _command(
    launch: Launch, checkpoints: Path, attempt: int, address: str | None, is_first: bool, options: Sequence[str] = ()
) -> list[str]:
    """The command of torchrun for one node. address: host:port of the rendezvous; None on one machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(launch.processes), *options]
    if address is None:
        command.append("--standalone")
    else:
        command += ["--nnodes", str(launch.nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", address]
        # A new id for each attempt: a node that is late must not join the remains of the last one. is_host: only the
        # first node opens the store; torchrun would otherwise guess from host names which node does.
        command += ["--rdzv-id", f"{checkpoints.name}-{attempt}", "--rdzv-conf", f"is_host={int(is_first)}"]
    return [*command, "-m", WORKER, str(checkpoints)]


def environment(processes: int, num_cpus: int | None = None) -> dict[str, str]:
    """The environment of a machine's processes, which divide its cores; torchrun's own default is one thread.

    num_cpus: the cores of that machine; those of this one if it is not given.
    """
    threads = max(1, (num_cpus or os.cpu_count() or 1) // processes)
    variables = {THREADS: str(threads)} | os.environ | {OWNER: str(os.getpid())}
    if variables.get(SPINS) == SINGLE_PROCESS_SPINS:
        variables[SPINS] = SPINS_OF_SEVERAL
    return variables


def _make_key(checkpoints: Path) -> bytes:
    """Write a new key with which the processes of this run sign their result, and return it."""
    key, file = secrets.token_hex().encode(), checkpoints / KEY
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(key)
    return key


def _result(file: Path, key: bytes, timings: Timings) -> Report:
    """The report that process 0 wrote, or the error that ended it. Raises BadInput if another program wrote the file.

    A report contains figures, which only pickle can write, and unpickling can run any code: the signature is checked
    first, with a key that only this process and its workers know.
    """
    signature, _, body = file.read_bytes().partition(b"\n")
    if not hmac.compare_digest(signature, sign(body, key)):
        raise BadInput(f"{file} was not written by a process of this run. Remove the file and run the command again.")
    kind, content, seconds = pickle.loads(body)
    if kind == "error":
        raise getattr(errors, content[0])(content[1])
    timings.values.update(seconds)
    report: Report = content
    return report


def sign(body: bytes, key: bytes) -> bytes:
    """The signature of what a worker of this run has written."""
    return hmac.new(key, body, "sha256").hexdigest().encode()


def join(folder: Path) -> None:
    """Join the stage whose checkpoints are in `folder` as another node, in every attempt, until the stage has ended."""
    joined: tuple[Path, int] | None = None
    while True:
        newest = _newest_job(folder)
        if newest is None and joined is not None:  # the stage that this node has joined has ended
            return
        if newest is not None and (newest[0], newest[1]["attempt"]) != joined:
            checkpoints, job = newest
            joined = checkpoints, job["attempt"]
            if _agent(Launch(**job["params"]["launch"]), checkpoints, job["attempt"], is_first=False) == 0:
                return
        time.sleep(POLL_SECONDS)


def _newest_job(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The newest stage below `folder` that has not ended."""
    jobs = [path for path in (*folder.glob(JOB), *folder.glob(f"*/{JOB}")) if not (path.parent / ENDED).is_file()]
    if not jobs:
        return None
    newest = max(jobs, key=lambda path: path.stat().st_mtime)
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
