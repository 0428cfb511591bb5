"""Peak memory of a training step, with and without what saves some: one child process each.

    make bench NAME=memory

The first three train a Llama of 25 million parameters on 2048 tokens a step, the others one of 110 million on 64: there
activations weigh most, here weights do. On a GPU the peak is torch's own count, on a CPU the highest resident memory of
the steps above what the process had before the model was built.
"""

import ctypes
import json
import os
import pickle
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1"}

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import peers
from tasks.training import adapters
from tasks.training.estimate.counting import Vocabulary
from tasks.training.language import attention
from tasks.training.language.backbone import head_weight, last_hidden
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedBatch, PackedRows
from tasks.training.loop.params import LoopParams, resolve_device
from tasks.training.loop.training_loop import run
from tasks.training.shape.architecture import Architecture, build
from tasks.training.stages import sft

STEPS, VOCAB = 2, 32768
LONG = {"width": 320, "num_layers": 12, "num_heads": 5}, 512, 4  # activations weigh most: shape, tokens of a row, rows
LARGE = {"width": 768, "num_layers": 12, "num_heads": 12}, 64, 1  # weights do
LORA = {"name": "lora", "rank": 8}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "logits whole": (LONG, {"chunked": False}),
    "chunked loss": (LONG, {}),
    "chunked loss, gradient checkpointing": (LONG, {"gradient_checkpointing": True}),
    "full fine-tuning": (LARGE, {}),
    "LoRA": (LARGE, {"adapter": LORA}),
    "LoRA on 8 bits": (LARGE, {"adapter": {**LORA, "base_bits": 8}}),
    "LoRA on 4 bits (QLoRA)": (LARGE, {"adapter": {**LORA, "base_bits": 4}}),
}
MMAP_THRESHOLD, OF_ALL_BUT_SMALL = -3, 1 << 16  # mallopt: what is freed goes back to the system at once


class WholeLogits(NextToken):
    """The loss as it is usually written."""

    def loss(self, batch: PackedBatch) -> tuple[Tensor, Mapping[str, float]]:
        """Cross-entropy on the logits of all tokens at once."""
        head = head_weight(self.model)
        hidden = last_hidden(self.model, batch.ids.to(head.device), batch.positions.to(head.device))
        logits = (hidden @ head.T).float()
        return F.cross_entropy(logits.flatten(0, 1), batch.targets.to(head.device).flatten()), {}


def main() -> None:
    """Print a table on stderr and one JSON line last."""
    peers.make_importable("bitsandbytes", ["bitsandbytes==0.50.2"])
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, OF_ALL_BUT_SMALL)
    peaks, failed = dict[str, int](), dict[str, str]()
    for name, case in CASES.items():
        told = alone(*case)
        if isinstance(told, str):
            failed[name] = told
        else:
            peaks[name] = told
        shown = told if isinstance(told, str) else f"{told / 1e6:8.1f} MB"
        print(f"{name:40} {shown}", file=sys.stderr, flush=True)
    print(json.dumps({
        "peak_bytes": peaks,
        "chunked_loss_share": share(peaks, "chunked loss", "logits whole"),
        "checkpointing_share": share(peaks, "chunked loss, gradient checkpointing", "chunked loss"),
        "adapter_share": {name: share(peaks, name, "full fine-tuning") for name in peaks if "LoRA" in name},
        "failed": failed,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }))  # fmt: skip


def share(peaks: Mapping[str, int], one: str, other: str) -> float | None:
    """The peak of one case over that of another."""
    return round(peaks[one] / peaks[other], 3) if one in peaks and other in peaks else None


def alone(world: Any, case: Mapping[str, Any]) -> int | str:
    """The peak of `case` in a process of its own, or what it died of."""
    with TemporaryDirectory() as room:
        child = os.fork()
        if child == 0:
            try:
                told: int | str = peak(world, case, Path(room))
            except Exception as error:
                traceback.print_exc()
                told = f"{type(error).__name__}: {error}"
            (Path(room) / "told").write_bytes(pickle.dumps(told))
            os._exit(0)
        os.waitpid(child, 0)
        file = Path(room) / "told"
        found: int | str = pickle.loads(file.read_bytes()) if file.is_file() else "killed"
        return found


def peak(world: Any, case: Mapping[str, Any], room: Path) -> int:
    """Bytes at the highest point of STEPS steps."""
    torch.set_num_threads(1)
    before, (shape, length, count) = resident("VmRSS"), world
    network = build(Architecture(**shape), Vocabulary(VOCAB), 0)
    network = adapters.attach(network, sft.Params(adapter=case.get("adapter")).adapter, 0)
    work = (NextToken if case.get("chunked", True) else WholeLogits)(network, rows(length, count), None, None)
    checkpointing = case.get("gradient_checkpointing", False)
    params = LoopParams(steps=STEPS, learning_rate=1e-3, precision="fp32", gradient_checkpointing=checkpointing)
    Path("/proc/self/clear_refs").write_text("5")  # the highest point so far is forgotten
    with attention.packed(network):
        run(work, params, room / "checkpoints", "memory")
    if resolve_device(params.device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM") - before


def rows(length: int, count: int) -> PackedRows:
    """Documents of made-up tokens by Zipf's law."""
    import numpy as np

    from tasks.tokenization import packing

    chance = np.random.default_rng(0)
    documents = [np.minimum(chance.zipf(1.2, n) + 5, VOCAB - 1) for n in chance.integers(50, 800, 40)]
    return PackedRows(packing.concatenate(documents, VOCAB), length, count, count, 0, 0)


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
