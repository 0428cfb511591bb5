"""Pretraining on one GPU: tokens/s, MFU and memory of models of 124 million and 1.1 billion parameters.

    make bench NAME=gpu

The engines are Athanor in bf16 (compiled or not, with and without `deterministic`) and in fp8 where the GPU supports
it, Hugging Face's Trainer in bf16 (with its defaults, and compiled), and a loop like nanoGPT's. Each engine runs in its
own process on the same rows. Athanor isolates the documents of a row, the others do not. MFU counts no recomputation
and uses the dense 16-bit peak of the data sheet. `--on-cpu` runs a tiny model on the CPU, to test the benchmark itself.
"""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch

from benchmarks.pretraining import Workload, time_athanor, time_plain_loop, time_trainer
from tasks.errors import BadParams
from tasks.training.loop.throughput import gpu_peak

CUDA = torch.device("cuda")
WORKLOADS = {
    "124M": Workload(
        {"width": 768, "num_layers": 12, "num_heads": 12}, 50304, length=1024, rows=32, steps=20, device=CUDA
    ),
    "1B": Workload(
        {"width": 2048, "num_layers": 20, "num_heads": 16}, 50304, length=2048, rows=16, steps=20, device=CUDA
    ),
    "tiny": Workload({"width": 32, "num_layers": 2, "num_heads": 2}, 512, length=64, rows=2, steps=3),
}
ENGINES = {
    "ours": lambda workload: time_athanor(workload, "bf16", "on"),
    "ours_uncompiled": lambda workload: time_athanor(workload, "bf16"),
    "ours_not_deterministic": lambda workload: time_athanor(workload, "bf16", "on", deterministic=False),
    "ours_fp8": lambda workload: time_athanor(workload, "bf16", "on", fp8=True),
    "trainer": lambda workload: time_trainer(workload, bf16=True),
    "trainer_compiled": lambda workload: time_trainer(workload, bf16=True, torch_compile=True),
    "plain_loop": time_plain_loop,
}
ATTENTION = ("flash", "fmha", "cudnn", "sdp", "attention")


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    on_cpu = "--on-cpu" in sys.argv
    if not on_cpu and not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU, but torch sees none on this machine")
    results: dict[str, Any] = {}
    for name in ("tiny",) if on_cpu else ("124M", "1B"):
        rows = {engine: run_in_process(name, engine) for engine in ENGINES}
        rates = {engine: row["tokens_per_second"] for engine, row in rows.items() if "tokens_per_second" in row}
        ratios = {f"vs_{engine}": rates["ours"] / rate for engine, rate in rates.items() if engine != "ours"}
        results[name] = {"engines": rows, **ratios, "attention": run_in_process(name, "kernels")}
    print(json.dumps({"device": "cpu" if on_cpu else torch.cuda.get_device_name(), **results}))


def run_in_process(name: str, engine: str) -> Any:
    """The result of one engine in its own process; {"failed": the last line of stderr} if it fails."""
    command = [sys.executable, "-m", "benchmarks.gpu", name, engine]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        body: Any = {"failed": process.stderr.strip().splitlines()[-1:]}
    else:
        body = json.loads(process.stdout.strip().splitlines()[-1])
    print(f"{name} {engine}: {body}", file=sys.stderr, flush=True)
    return body


def measure(workload: Workload, engine: str) -> dict[str, float]:
    """Tokens/s of the fastest step, its share of the peak, peak memory in bytes, and the loss."""
    seconds, loss = ENGINES[engine](workload)
    row = {"tokens_per_second": workload.tokens / seconds, "loss": loss}
    if workload.device.type == "cuda":
        row["memory_bytes"], peak = torch.cuda.max_memory_allocated(), gpu_peak(torch.cuda.get_device_name())
        if peak is not None:
            row["mfu"] = row["tokens_per_second"] * workload.flops_per_token() / peak
    return row


def kernels(workload: Workload) -> list[str]:
    """The names of the attention kernels that ran in three steps of Athanor."""
    with torch.profiler.profile() as profile:
        time_athanor(replace(workload, steps=3), "bf16")
    names = {event.key for event in profile.key_averages()}
    return sorted(name for name in names if any(part in name.lower() for part in ATTENTION))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        workload = WORKLOADS[sys.argv[1]]
        try:
            print(json.dumps(kernels(workload) if sys.argv[2] == "kernels" else measure(workload, sys.argv[2])))
        except BadParams as error:
            sys.exit(str(error))
    else:
        main()
