"""Every strategy in two processes, compared with one process: difference of the losses, time and memory of a step.

    make bench NAME=distributed

A Llama of 2.6 million parameters trains on random documents in fp32, with eight micro-batches per step. The processes
are forked and communicate over gloo. `bytes_kept_per_process` counts the weights, gradients and optimizer states that
one process holds between two steps.
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
from tasks.causal import attention
from tasks.tokenization import packing
from tasks.training.estimate.counting import Vocabulary
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
    results = {"one process": run_processes("ddp", 1)}
    for name in catalog.names(strategies.__name__):
        try:
            results[name] = run_processes(name, PROCESSES)
        except RuntimeError as error:  # an extra is not installed; the process has printed which one
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    one = results["one process"]["losses"]
    print(f"{'':12} {'loss difference':>16} {'s/step':>8} {'MB kept':>8}", file=sys.stderr)
    difference = {}
    for name, result in results.items():
        difference[name] = max(abs(a - b) for a, b in zip(result["losses"], one, strict=True))
        row = f"{difference[name]:16.1e} {result['seconds']:8.3f} {result['bytes'] / 1e6:8.1f}"
        print(f"{name:12} {row}", file=sys.stderr, flush=True)
    del difference["one process"]
    print(json.dumps({
        "max_loss_difference": difference,
        "seconds_per_step": {name: round(result["seconds"], 4) for name, result in results.items()},
        "bytes_kept_per_process": {name: result["bytes"] for name, result in results.items()},
        "processes": PROCESSES,
        "final_loss": round(one[-1], 4),
    }))  # fmt: skip


def run_processes(strategy: str, count: int) -> dict[str, Any]:
    """Train in `count` processes and return the result of the first. Raises RuntimeError if one of them fails."""
    with TemporaryDirectory() as folder:
        children = [fork(strategy, Path(folder), rank, count) for rank in range(count)]
        if any(os.waitpid(child, 0)[1] for child in children):
            raise RuntimeError("a process failed")
        result: dict[str, Any] = pickle.loads((Path(folder) / "result").read_bytes())
        return result


def fork(strategy: str, folder: Path, rank: int, count: int) -> int:
    """Start one of the processes that train together and return its id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        # The variables that torchrun sets.
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
        result = train(strategy, folder)
        if rank == 0:
            (folder / "result").write_bytes(pickle.dumps(result))
        dist.barrier()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def train(strategy: str, folder: Path) -> dict[str, Any]:
    """The losses of all steps, the median seconds of a step, and the bytes that this process keeps between steps."""
    starts, bytes_kept = list[float](), 0
    model = build(Architecture(**SHAPE), Vocabulary(VOCAB), 0)

    class Timed(NextToken):
        def batches(self, step: int) -> Sequence[Any]:
            nonlocal bytes_kept
            if step == 1:
                bytes_kept = persistent_bytes()
            starts.append(time.perf_counter())
            return super().batches(step)

    params = LoopParams(
        steps=STEPS, learning_rate=3e-3, warmup_steps=2, precision="fp32", device="cpu", log_every=1,
        launch=strategies.Launch(strategy=strategy),
    )  # fmt: skip
    with attention.packed(model):
        log: list[Row] = run(Timed(model, rows(), None, None), params, folder / "checkpoints", strategy)
    seconds = median(after - before for before, after in pairwise(starts))
    return {"losses": [row["loss"] for row in log], "seconds": seconds, "bytes": bytes_kept}


def persistent_bytes() -> int:
    """Bytes of all floating-point tensors that exist between two steps: weights, optimizer states, kept gradients."""
    bytes_by_address = {}  # several tensors can share one storage
    for value in gc.get_objects():
        # Not isinstance: it reads `__class__`, which some of these objects compute.
        if issubclass(type(value), torch.Tensor) and value.is_floating_point():
            storage = local_of(value).untyped_storage()
            bytes_by_address[storage.data_ptr()] = storage.nbytes()
    return sum(bytes_by_address.values())


def rows() -> PackedRows:
    """Rows of documents of 20 to 400 random tokens that follow Zipf's law."""
    import numpy as np

    rng = np.random.default_rng(0)
    stream = packing.concatenate(
        [np.minimum(rng.zipf(1.3, n) + 5, VOCAB - 1) for n in rng.integers(20, 400, 200)], VOCAB
    )
    return PackedRows(stream, LENGTH, 8, 1, 0, 0)


if __name__ == "__main__":
    main()
