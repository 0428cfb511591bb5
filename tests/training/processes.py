"""Forked processes that train together over gloo. Forking avoids importing torch again in each of them."""

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed as dist


def in_processes(work: Callable[[], Any], count: int = 2) -> list[Any]:
    """The results of `work` in `count` processes that torch.distributed connects."""
    with TemporaryDirectory() as folder:
        children = [_fork(work, Path(folder), rank, count) for rank in range(count)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes == [0] * count, codes
        return [pickle.loads((Path(folder) / str(rank)).read_bytes()) for rank in range(count)]


def _fork(work: Callable[[], Any], folder: Path, rank: int, count: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        # The variables that torchrun sets.
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
        (folder / str(rank)).write_bytes(pickle.dumps(work()))
        dist.barrier()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
