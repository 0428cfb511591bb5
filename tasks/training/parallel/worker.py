"""One of the processes that torchrun starts for a stage: it reads the job that launch.py wrote, and trains."""

import contextlib
import os
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import distributed as dist

from tasks import catalog
from tasks.errors import BadParams, UserError
from tasks.files import read_json
from tasks.reports import Timings
from tasks.training.parallel import processes
from tasks.training.parallel.launch import ENDED, JOB, KEY, OWNER, POLL_SECONDS, STAGES, sign


def end_with_owner() -> None:
    """End this process when the one that has started torchrun is killed: otherwise it would write into outputs."""
    owner = os.environ.get(OWNER, "")

    def watch() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(owner))
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(POLL_SECONDS)
        os._exit(1)

    if owner:
        threading.Thread(target=watch, daemon=True).start()


def main(checkpoints: Path) -> None:
    """Train together with the other processes. Process 0 writes the report; a process that fails writes its error."""
    job = read_json(checkpoints / JOB)
    stage, timings = catalog.find(STAGES, job["kind"]), Timings(job["stage"])
    params = stage.Params.model_validate(job["params"])
    on_gpu = params.device != "cpu" and torch.cuda.is_available()
    # Both backends on a GPU: tensors on the CPU (flags, Python objects) go through gloo, gradients through nccl.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        if on_gpu:
            _select_gpu()
        report = stage.train(params, Path(job["data"]), checkpoints, timings, job["stage"])
        if processes.rank() == 0:
            _write_result(checkpoints, ("report", report, timings.values))
    except UserError as error:
        # Every process finds a wrong setting or input, and a retry would find it again. Other errors are not caught:
        # they end the attempt, and launch.py makes another one.
        _write_result(checkpoints, ("error", (type(error).__name__, str(error)), {}))
    dist.destroy_process_group()


def _select_gpu() -> None:
    number, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if int(os.environ["LOCAL_WORLD_SIZE"]) > num_gpus:
        raise BadParams(f"launch.processes must be at most {num_gpus}, the number of GPUs of this node")
    torch.cuda.set_device(number)


def _write_result(checkpoints: Path, ended: tuple[str, Any, dict[str, float]]) -> None:
    # Renamed, so that launch.py never reads half a file; a name per rank, so that processes do not write into each
    # other's file. The last one wins, and all errors are the same.
    temporary = checkpoints / f"{ENDED}.{processes.rank()}.tmp"
    body = pickle.dumps(ended)
    temporary.write_bytes(sign(body, (checkpoints / KEY).read_bytes()) + b"\n" + body)
    temporary.replace(checkpoints / ENDED)


if __name__ == "__main__":
    end_with_owner()
    main(Path(sys.argv[1]))
