"""Every strategy in two processes beside one process: how far the losses are apart, and what a step costs.

    make bench NAME=distributed

A Llama of 2.6 million parameters on made-up documents in fp32, eight micro-batches a step; the processes are forked and
talk over gloo. Bytes are what each process keeps of weights, gradients and optimizer states, as far as tensors tell.
"""

import gc
import json
import os
import pickle
import sys
import time
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import torch
from torch import distributed as dist

from benchmarks import peers
from tasks import catalog
from tasks.tokenization import packing
from tasks.training.estimate.counting import Vocabulary
from tasks.training.language import attention
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import Row, run
from tasks.training.parallel import strategies
from tasks.training.parallel.sharding import local_of
from tasks.training.shape.architecture import Architecture, build

VOCAB, LENGTH, STEPS, PROCESSES = 4096, 256, 12, 2
DEEPSPEED = ["deepspeed==0.19.8", "einops==0.8.2", "hjson==3.1.0", "msgpack==1.2.4", "ninja==1.13.2",
             "py-cpuinfo==9.0.0"]  # fmt: skip
SHAPE = {"width": 192, "num_layers": 4, "num_heads": 4}


def main() -> None:
    """Print a table on stderr and one JSON line last."""
    peers.make_importable("deepspeed", DEEPSPEED)
    found = {"one process": together("ddp", 1)}
    for name in catalog.names(strategies.__name__):
        try:
            found[name] = together(name, PROCESSES)
        except RuntimeError as error:  # where an extra is missing the process has said so
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    one = found["one process"]["losses"]
    print(f"{'':12} {'loss difference':>16} {'s/step':>8} {'MB kept':>8}", file=sys.stderr)
    difference = {}
    for name, told in found.items():
        difference[name] = max(abs(a - b) for a, b in zip(told["losses"], one, strict=True))
        row = f"{difference[name]:16.1e} {told['seconds']:8.3f} {told['bytes'] / 1e6:8.1f}"
        print(f"{name:12} {row}", file=sys.stderr, flush=True)
    del difference["one process"]
    print(json.dumps({
        "max_loss_difference": difference,
        "seconds_per_step": {name: round(told["seconds"], 4) for name, told in found.items()},
        "bytes_kept_per_process": {name: told["bytes"] for name, told in found.items()},
        "processes": PROCESSES,
        "final_loss": round(one[-1], 4),
    }))  # fmt: skip


def together(strategy: str, count: int) -> dict[str, Any]:
    """What the first of `count` processes tells. Raises RuntimeError where one of them fails."""
    with TemporaryDirectory() as room:
        children = [fork(strategy, Path(room), rank, count) for rank in range(count)]
        if any(os.waitpid(child, 0)[1] for child in children):
            raise RuntimeError("a process failed")
        told: dict[str, Any] = pickle.loads((Path(room) / "told").read_bytes())
        return told


def fork(strategy: str, room: Path, rank: int, count: int) -> int:
    """Start a process that trains with the others; its id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}  # as torchrun has them
        dist.init_process_group("gloo", init_method=f"file://{room}/meeting", rank=rank, world_size=count)
        told = train(strategy, room)
        if rank == 0:
            (room / "told").write_bytes(pickle.dumps(told))
        dist.barrier()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def train(strategy: str, room: Path) -> dict[str, Any]:
    """Losses of all steps, seconds of the median one, bytes kept by this process."""
    marks, kept = list[float](), 0
    model = build(Architecture(**SHAPE), Vocabulary(VOCAB), 0)

    class Timed(NextToken):
        def batches(self, step: int) -> Sequence[Any]:
            nonlocal kept
            if step == 1:
                kept = kept_bytes()
            marks.append(time.perf_counter())
            return super().batches(step)

    params = LoopParams(
        steps=STEPS, learning_rate=3e-3, warmup_steps=2, precision="fp32", device="cpu", log_every=1,
        launch=strategies.Launch(strategy=strategy),
    )  # fmt: skip
    with attention.packed(model):
        log: list[Row] = run(Timed(model, rows(), None, None), params, room / "checkpoints", strategy)
    seconds = median(after - before for before, after in pairwise(marks))
    return {"losses": [row["loss"] for row in log], "seconds": seconds, "bytes": kept}


def kept_bytes() -> int:
    """Bytes of all large tensors that live between two steps: weights, optimizer states, gradients that are kept."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.is_floating_point():
            storage = local_of(thing).untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def rows() -> PackedRows:
    """Documents of 20 to 400 made-up tokens by Zipf's law."""
    import numpy as np

    chance = np.random.default_rng(0)
    stream = packing.concatenate(
        [np.minimum(chance.zipf(1.3, n) + 5, VOCAB - 1) for n in chance.integers(20, 400, 200)], VOCAB
    )
    return PackedRows(stream, LENGTH, 8, 1, 0, 0)


if __name__ == "__main__":
    main()
