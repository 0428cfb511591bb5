"""One of the processes that torchrun starts for a stage."""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from tasks import catalog
from tasks.errors import BadParams, UserError
from tasks.files import read_json
from tasks.reports import Timings
from tasks.training.parallel import processes
from tasks.training.parallel.launch import ENDED, JOB, STAGES


def main(checkpoints: Path) -> None:
    """Train with the others; the first process leaves the report, and whoever meets a user's mistake leaves that."""
    job = read_json(checkpoints / JOB)
    stage, timings = catalog.find(STAGES, job["stage"]), Timings(job["stage"])
    params = stage.Params.model_validate(job["params"])
    on_gpu = params.device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        if on_gpu:
            _take_a_gpu()
        report = stage.train(params, Path(job["data"]), checkpoints, timings)
        if processes.rank() == 0:
            _leave(checkpoints, ("report", report, timings.values))
    except UserError as error:
        _leave(checkpoints, ("error", (type(error).__name__, str(error)), {}))
    dist.destroy_process_group()


def _take_a_gpu() -> None:
    number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if int(os.environ["LOCAL_WORLD_SIZE"]) > there:
        raise BadParams(f"launch.processes is more than the {there} GPUs of this node")
    torch.cuda.set_device(number)


def _leave(checkpoints: Path, ended: tuple[str, Any, dict[str, float]]) -> None:
    beside = checkpoints / f"{ENDED}.{processes.rank()}.tmp"
    beside.write_bytes(pickle.dumps(ended))
    beside.replace(checkpoints / ENDED)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
