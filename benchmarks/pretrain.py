"""Pretraining speed compared with Hugging Face's Trainer: tokens per CPU-second of one core, share of the matmul peak.

    make bench NAME=pretrain

A Llama of 10 million parameters trains on 8 rows of 256 tokens per step. Every engine trains on the same rows, in one
process with one thread. The engines alternate, and the fastest step of each counts, because other processes on the
machine can only slow one down. Athanor isolates the documents of a row, the Trainer does not. The ratios are those of
`compile: on`, whose first step is not counted; `without_compile` has those of the default.
"""

import json
import sys
import time
from collections.abc import Callable

import torch

from benchmarks.pretraining import Outcome, Workload, time_athanor, time_trainer

WORKLOAD = Workload({"width": 320, "num_layers": 6, "num_heads": 5}, vocab=8192, length=256, rows=8, steps=6)
ROUNDS = 3
ENGINES: dict[str, Callable[[], Outcome]] = {
    "ours": lambda: time_athanor(WORKLOAD, "bf16"),
    "ours_compiled": lambda: time_athanor(WORKLOAD, "bf16", "on"),
    "ours_fp32": lambda: time_athanor(WORKLOAD, "fp32"),
    "trainer_fp32": lambda: time_trainer(WORKLOAD),
    "trainer_bf16": lambda: time_trainer(WORKLOAD, bf16=True),
}


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    torch.set_num_threads(1)
    best = dict.fromkeys(ENGINES, float("inf"))
    loss, peaks = dict.fromkeys(ENGINES, 0.0), dict.fromkeys(("bfloat16", "float32"), 0.0)
    for number in range(ROUNDS):
        for engine, train in ENGINES.items():
            seconds, loss[engine] = train()
            best[engine] = min(best[engine], seconds)
            peaks = {name: max(peak, peak_flops(name)) for name, peak in peaks.items()}
            print(f"round {number + 1}: {engine} {WORKLOAD.tokens / seconds:.0f} tokens/s", file=sys.stderr, flush=True)
    rates = {engine: WORKLOAD.tokens / seconds for engine, seconds in best.items()}
    flops = WORKLOAD.flops_per_token()
    print(json.dumps({
        **ratios(rates, rates["ours_compiled"]),
        "matmul_share": round(rates["ours_compiled"] * flops / peaks["bfloat16"], 3),
        "without_compile": ratios(rates, rates["ours"]),
        "without_compile_matmul_share": round(rates["ours"] * flops / peaks["bfloat16"], 3),
        "trainer_bf16_matmul_share": round(rates["trainer_bf16"] * flops / peaks["bfloat16"], 3),
        "trainer_fp32_matmul_share": round(rates["trainer_fp32"] * flops / peaks["float32"], 3),
        "peak_gflops": {name: round(peak / 1e9, 1) for name, peak in peaks.items()},
        "tokens_per_cpu_second": {engine: round(rate) for engine, rate in rates.items()},
        "loss": {engine: round(value, 4) for engine, value in loss.items()},
    }))  # fmt: skip


def ratios(rates: dict[str, float], rate: float) -> dict[str, float]:
    """`rate` divided by the rates of the Trainer."""
    return {f"vs_{name}": round(rate / rates[name], 3) for name in ("trainer_fp32", "trainer_bf16")}


def peak_flops(dtype: str) -> float:
    """FLOP/s of the fastest of six products of 2048 x 2048 matrices."""
    matrix, best = torch.ones(2048, 2048, dtype=getattr(torch, dtype)), float("inf")
    for _ in range(6):
        start = time.process_time()
        torch.mm(matrix, matrix)
        best = min(best, time.process_time() - start)
    return 2 * 2048**3 / best


if __name__ == "__main__":
    main()
