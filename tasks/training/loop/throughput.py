"""The speed of a run: tokens per second, the share of the peak of matrix products, and peak memory.

These numbers are shown in the progress line and written to Timings. They do not enter a report, because they differ
between runs.
"""

import platform
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.files import read_json, write_json
from tasks.reports import TIMINGS
from tasks.training.parallel.precision import matmul_seconds

PEAKS = {  # FLOP/s of dense 16-bit products by the data sheets; the first key that the device name contains applies
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
    "A10G": 70e12, "A10": 125e12, "V100": 125e12, "T4": 65e12, "4090": 165e12, "3090": 71e12,
}  # fmt: skip
PART = "steps."  # what the names of parts of the steps begin with in Timings
MEASURED_SIZE = 1024  # rows and columns of the matrices that the peak of a CPU is measured with


class Throughput:
    """Counts tokens and operations of a run. `processes`: the number of processes, each with its own device."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype, processes: int = 1) -> None:
        self._device, self._dtype, self._processes = device, dtype, processes
        self._by_weights, self._by_length = flops_of(model)
        self._tokens, self._flops, self._start = 0, 0.0, time.perf_counter()
        self._seconds = dict[str, float]()

    def add(self, batches: Sequence[Any]) -> None:
        """Count the micro-batches of one step, those of all processes."""
        for batch in batches:
            # Batches of pretrain and sft have ids; those of reward, dpo and ppo have answers, which have ids.
            ids = getattr(batch, "ids", getattr(getattr(batch, "answers", None), "ids", None))
            if isinstance(ids, Tensor):
                self._tokens += ids.numel()
                self._flops += ids.numel() * (self._by_weights + self._by_length * ids.shape[-1])

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a part of the steps. Nothing is measured on a GPU, which works on its own."""
        if self._device.type != "cpu":
            yield
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def note(self) -> str:
        """The text beside the loss: `8.1 k tokens/s, 47 % of peak, 1.2 GB`."""
        timings = self.timings()
        if not self._tokens:
            return f"{timings['training_memory_bytes'] / 1e9:.1f} GB"
        share = f", {100 * timings['peak_share']:.0f} % of peak" if "peak_share" in timings else ""
        rate, memory = timings["tokens_per_second"] / 1e3, timings["training_memory_bytes"] / 1e9
        return f"{rate:.1f} k tokens/s{share}, {memory:.1f} GB"

    def timings(self) -> dict[str, float]:
        """Rates so far. peak_share is the share of the peak of matrix products, where known (MFU, arXiv:2204.02311)."""
        timings = {"training_memory_bytes": self._memory()}
        timings |= {f"{PART}{name}": seconds for name, seconds in self._seconds.items()}
        if self._tokens:
            seconds = max(time.perf_counter() - self._start, 1e-9)
            timings["tokens_per_second"] = self._tokens / seconds
            peak = self._peak()
            if peak is not None:
                # A rate above the measured peak means that the measurement was disturbed: the rate is a better bound.
                timings["peak_share"] = min(1.0, self._flops / seconds / self._processes / peak)
        return timings

    def _memory(self) -> float:
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # Linux counts in KiB

    def _peak(self) -> float | None:
        if self._device.type == "cuda":
            return gpu_peak(torch.cuda.get_device_name(self._device))
        # A CPU without native bf16 emulates it far below its fp32 rate, which remains the peak of the hardware.
        return max(cpu_peak(dtype, torch.get_num_threads()) for dtype in {self._dtype, torch.float32})


def flops_of(model: nn.Module) -> tuple[float, float]:
    """FLOPs of a training step per token: from the weights, and per token of its row (causal attention).

    A weight costs two operations forward, two for the gradient of its input and, where it is trained, two for its own
    gradient (arXiv:2001.08361). Recomputed activations are not counted, as usual for MFU.
    """
    config = next((m.config for m in model.modules() if hasattr(m, "config") and hasattr(m.config, "to_dict")), None)
    # Looking up an embedding multiplies nothing, but a tied embedding is also the weight of the head, which does.
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    heads = {getattr(m, "weight", None) for name, m in model.named_modules() if name.endswith("lm_head")}
    multiplied = [p for p in model.parameters() if p.ndim >= 2 and (p not in embeddings or p in heads)]
    by_weights = sum(p.numel() * (6.0 if p.requires_grad else 4.0) for p in multiplied)
    width, layers = getattr(config, "hidden_size", 0), getattr(config, "num_hidden_layers", 0)
    return by_weights, 6.0 * width * layers


def gpu_peak(name: str) -> float | None:
    """Peak FLOP/s of the GPU `name`, where it is known."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


@cache
def cpu_peak(dtype: torch.dtype, threads: int, folder: Path = TIMINGS.parent) -> float:
    """FLOP/s of matrix products on this CPU, measured once and stored in `folder`."""
    path, key = folder / "matmul_peak.json", f"{platform.processor() or platform.machine()} {dtype} {threads}"
    peaks: dict[str, float] = read_json(path) if path.is_file() else {}
    if key not in peaks:
        peaks[key] = 2 * MEASURED_SIZE**3 / matmul_seconds(dtype, MEASURED_SIZE)
        write_json(path, peaks)
    return peaks[key]
