"""Pretraining on one GPU: tokens/s, MFU and memory of models of 124 million and 1.1 billion parameters.

    make bench NAME=gpu

Athanor in bf16 (compiled or not, with and without `deterministic`) and in fp8 where the GPU supports it, beside Hugging
Face's Trainer in bf16 (with its defaults, and compiled) and a loop like nanoGPT's. Each engine runs in one process on
the same rows. Athanor isolates the documents of a row, the others do not. MFU counts no recomputation and uses the
dense 16-bit peak of the data sheet.
"""

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch

from benchmarks.pretraining import World, by_hand, ours, trainer
from tasks.errors import BadParams
from tasks.training.loop.throughput import gpu_peak

CUDA = torch.device("cuda")
WORLDS = {
    "124M": World(
        {"width": 768, "num_layers": 12, "num_heads": 12}, 50304, length=1024, rows=32, steps=20, device=CUDA
    ),
    "1B": World({"width": 2048, "num_layers": 20, "num_heads": 16}, 50304, length=2048, rows=16, steps=20, device=CUDA),
    "nothing": World({"width": 32, "num_layers": 2, "num_heads": 2}, 512, length=64, rows=2, steps=3),
}
ENGINES = {
    "ours": lambda world: ours(world, "bf16", "on"),
    "ours_uncompiled": lambda world: ours(world, "bf16"),
    "ours_not_deterministic": lambda world: ours(world, "bf16", "on", deterministic=False),
    "ours_fp8": lambda world: ours(world, "bf16", "on", fp8=True),
    "trainer": lambda world: trainer(world, bf16=True),
    "trainer_compiled": lambda world: trainer(world, bf16=True, torch_compile=True),
    "by_hand": by_hand,
}
ATTENTION = ("flash", "fmha", "cudnn", "sdp", "attention")


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    on_cpu = "--on-cpu" in sys.argv
    if not on_cpu and not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU, and torch sees none here")
    found: dict[str, Any] = {}
    for name in ("nothing",) if on_cpu else ("124M", "1B"):
        table = {engine: child(name, engine) for engine in ENGINES}
        rates = {engine: row["tokens_per_second"] for engine, row in table.items() if "tokens_per_second" in row}
        ratios = {f"vs_{engine}": rates["ours"] / rate for engine, rate in rates.items() if engine != "ours"}
        found[name] = {"engines": table, **ratios, "attention": child(name, "kernels")}
    print(json.dumps({"device": "cpu" if on_cpu else torch.cuda.get_device_name(), **found}))


def child(name: str, engine: str) -> Any:
    """What one engine comes to in a process of its own; what it says where it fails."""
    command = [sys.executable, "-m", "benchmarks.gpu", name, engine]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        body: Any = {"failed": done.stderr.strip().splitlines()[-1:]}
    else:
        body = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{name} {engine}: {body}", file=sys.stderr, flush=True)
    return body


def measure(world: World, engine: str) -> dict[str, float]:
    """Tokens/s of the fastest step, its share of the peak, the most memory in bytes and the loss."""
    seconds, loss = ENGINES[engine](world)
    row = {"tokens_per_second": world.tokens / seconds, "loss": loss}
    if world.device.type == "cuda":
        row["memory_bytes"], peak = torch.cuda.max_memory_allocated(), gpu_peak(torch.cuda.get_device_name())
        if peak is not None:
            row["mfu"] = row["tokens_per_second"] * world.flops_per_token() / peak
    return row


def kernels(world: World) -> list[str]:
    """The names of what attention ran in during some steps of ours."""
    with torch.profiler.profile() as profile:
        ours(replace(world, steps=3), "bf16")
    names = {event.key for event in profile.key_averages()}
    return sorted(name for name in names if any(part in name.lower() for part in ATTENTION))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        world = WORLDS[sys.argv[1]]
        try:
            print(json.dumps(kernels(world) if sys.argv[2] == "kernels" else measure(world, sys.argv[2])))
        except BadParams as error:
            sys.exit(str(error))
    else:
        main()
