"""Peak memory of a training step with and without methods that save memory; each case runs in its own process.

    make bench NAME=memory

The first three cases train a Llama of 25 million parameters on 2048 tokens per step, where activations need most of the
memory. The others train one of 110 million on 64 tokens, where weights do. On a GPU the peak is the one that torch
counts. On a CPU it is the highest resident memory during the steps, minus that before the model was built.
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
from tasks.causal import attention, heads
from tasks.causal.backbone import last_hidden
from tasks.training import adapters
from tasks.training.estimate.counting import Vocabulary
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedBatch, PackedRows
from tasks.training.loop.params import LoopParams, resolve_device
from tasks.training.loop.training_loop import run
from tasks.training.shape.architecture import Architecture, build
from tasks.training.stages import sft

STEPS, VOCAB = 2, 32768
LONG_ROWS = (
    {"width": 320, "num_layers": 12, "num_heads": 5},
    512,
    4,
)  # shape, tokens per row, rows; activations need most memory
LARGE_MODEL = {"width": 768, "num_layers": 12, "num_heads": 12}, 64, 1  # weights need most memory
LORA = {"name": "lora", "rank": 8}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "full logits": (LONG_ROWS, {"chunked": False}),
    "chunked loss": (LONG_ROWS, {}),
    "chunked loss, gradient checkpointing": (LONG_ROWS, {"gradient_checkpointing": True}),
    "full fine-tuning": (LARGE_MODEL, {}),
    "LoRA": (LARGE_MODEL, {"adapter": LORA}),
    "LoRA on 8 bits": (LARGE_MODEL, {"adapter": {**LORA, "base_bits": 8}}),
    "LoRA on 4 bits (QLoRA)": (LARGE_MODEL, {"adapter": {**LORA, "base_bits": 4}}),
}
MMAP_THRESHOLD, THRESHOLD_BYTES = -3, 1 << 16  # for mallopt: freed blocks return to the system at once


class FullLogits(NextToken):
    """The loss without chunks, as it is usually written."""

    def loss(self, batch: PackedBatch) -> tuple[Tensor, Mapping[str, float]]:
        """Cross-entropy of the logits of all tokens at once."""
        device = heads.device(self.model)
        hidden = last_hidden(self.model, batch.ids.to(device), batch.positions.to(device))
        logits = heads.logits(self.model, hidden).float()
        return F.cross_entropy(logits.flatten(0, 1), batch.targets.to(device).flatten()), {}


def main() -> None:
    """Print a table on stderr and one JSON line last."""
    peers.make_importable("bitsandbytes", ["bitsandbytes==0.50.2"])
    ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, THRESHOLD_BYTES)
    peaks, failed = dict[str, int](), dict[str, str]()
    for name, case in CASES.items():
        result = peak_in_process(*case)
        if isinstance(result, str):
            failed[name] = result
        else:
            peaks[name] = result
        text = result if isinstance(result, str) else f"{result / 1e6:8.1f} MB"
        print(f"{name:40} {text}", file=sys.stderr, flush=True)
    print(json.dumps({
        "peak_bytes": peaks,
        "chunked_loss_share": share(peaks, "chunked loss", "full logits"),
        "checkpointing_share": share(peaks, "chunked loss, gradient checkpointing", "chunked loss"),
        "adapter_share": {name: share(peaks, name, "full fine-tuning") for name in peaks if "LoRA" in name},
        "failed": failed,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }))  # fmt: skip


def share(peaks: Mapping[str, int], one: str, other: str) -> float | None:
    """The peak of one case divided by that of another; None if one of them failed."""
    return round(peaks[one] / peaks[other], 3) if one in peaks and other in peaks else None


def peak_in_process(size: Any, case: Mapping[str, Any]) -> int | str:
    """The peak of `case` in bytes, measured in a forked process; a message if that process fails."""
    with TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            try:
                result: int | str = peak(size, case, Path(folder))
            except Exception as error:
                traceback.print_exc()
                result = f"{type(error).__name__}: {error}"
            (Path(folder) / "result").write_bytes(pickle.dumps(result))
            os._exit(0)
        os.waitpid(child, 0)
        file = Path(folder) / "result"
        loaded: int | str = pickle.loads(file.read_bytes()) if file.is_file() else "killed"
        return loaded


def peak(size: Any, case: Mapping[str, Any], folder: Path) -> int:
    """Peak memory of STEPS steps in bytes."""
    torch.set_num_threads(1)
    before, (shape, length, count) = resident("VmRSS"), size
    model = build(Architecture(**shape), Vocabulary(VOCAB), 0)
    model = adapters.attach(model, sft.Params(adapter=case.get("adapter")).adapter, 0)
    work = (NextToken if case.get("chunked", True) else FullLogits)(model, rows(length, count), None, None)
    checkpointing = case.get("gradient_checkpointing", False)
    params = LoopParams(steps=STEPS, learning_rate=1e-3, precision="fp32", gradient_checkpointing=checkpointing)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, the peak of this process so far
    with attention.packed(model):
        run(work, params, folder / "checkpoints", "memory")
    if resolve_device(params.device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resident("VmHWM") - before


def rows(length: int, count: int) -> PackedRows:
    """Rows of documents of random tokens that follow Zipf's law."""
    import numpy as np

    from tasks.tokenization import packing

    rng = np.random.default_rng(0)
    documents = [np.minimum(rng.zipf(1.2, n) + 5, VOCAB - 1) for n in rng.integers(50, 800, 40)]
    return PackedRows(packing.concatenate(documents, VOCAB), length, count, count, 0, 0)


def resident(field: str) -> int:
    """Resident memory of this process in bytes: VmRSS is the present one, VmHWM the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
