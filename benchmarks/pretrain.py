"""Pretraining speed beside Hugging Face's Trainer: tokens per CPU-second of one core, and the share of matmul peak.

    make bench NAME=pretrain

A Llama of 10 million parameters, rows of 256 tokens, 8 rows a step, every engine on the same rows in one process with
one thread; rounds alternate and the best of each counts, because other processes on the machine only ever slow one
down. Ours keeps documents within a row apart, the Trainer does not. The ratios are those of `compile: on`, whose first
step is not counted; `without_compile` are those of the default.
"""

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

VOCAB, LENGTH, ROWS, STEPS, ROUNDS = 8192, 256, 8, 6, 3
SHAPE = {"width": 320, "num_layers": 6, "num_heads": 5}
ENGINES = ("ours", "ours_compiled", "ours_fp32", "trainer_fp32", "trainer_bf16")


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    import torch

    torch.set_num_threads(1)
    best = dict.fromkeys(ENGINES, float("inf"))
    loss, peaks = dict.fromkeys(ENGINES, 0.0), dict.fromkeys(("bfloat16", "float32"), 0.0)
    for number in range(ROUNDS):
        for engine in ENGINES:
            seconds, loss[engine] = measure(engine)
            best[engine] = min(best[engine], seconds)
            peaks = {name: max(peak, peak_flops(name)) for name, peak in peaks.items()}
            print(f"round {number + 1}: {engine} {ROWS * LENGTH / seconds:.0f} tokens/s", file=sys.stderr, flush=True)
    rates = {engine: ROWS * LENGTH / best[engine] for engine in ENGINES}
    print(json.dumps({
        **against(rates, rates["ours_compiled"], peaks["bfloat16"]),
        "without_compile": against(rates, rates["ours"], peaks["bfloat16"]),
        "trainer_bf16_matmul_share": round(rates["trainer_bf16"] * flops_per_token(model()) / peaks["bfloat16"], 3),
        "trainer_fp32_matmul_share": round(rates["trainer_fp32"] * flops_per_token(model()) / peaks["float32"], 3),
        "peak_gflops": {name: round(peak / 1e9, 1) for name, peak in peaks.items()},
        "tokens_per_cpu_second": {engine: round(rate) for engine, rate in rates.items()},
        "loss": {engine: round(loss[engine], 4) for engine in ENGINES},
    }))  # fmt: skip


def against(rates: dict[str, float], rate: float, peak: float) -> dict[str, float]:
    """A rate beside the Trainer's, and as a share of the matmul peak."""
    return {
        "vs_trainer_fp32": round(rate / rates["trainer_fp32"], 3),
        "vs_trainer_bf16": round(rate / rates["trainer_bf16"], 3),
        "matmul_share": round(rate * flops_per_token(model()) / peak, 3),
    }


def model() -> Any:
    """The model that every engine trains."""
    from tasks.training.architecture import Architecture, build
    from tasks.training.counting import Vocabulary

    return build(Architecture(**SHAPE), Vocabulary(VOCAB), 0)


def stream() -> Any:
    """Documents of 20 to 400 made-up tokens: Zipf's law, so that there is something to learn."""
    import numpy as np

    from tasks.tokenization import packing

    chance = np.random.default_rng(0)
    lengths = chance.integers(20, 400, 200)
    return packing.concatenate([np.minimum(chance.zipf(1.3, n) + 5, VOCAB - 1) for n in lengths], VOCAB)


def flops_per_token(network: Any) -> float:
    """Six per weight that is multiplied, and attention's two products over the whole row, forward and backward."""
    weights = network.num_parameters()  # tied: the embedding is counted once, for the head that is multiplied
    return float(6 * weights + 12 * SHAPE["num_layers"] * SHAPE["width"] * LENGTH / 2)


def peak_flops(dtype: str) -> float:
    """The best of some matrix products of 2048 x 2048."""
    import torch

    matrix, best = torch.ones(2048, 2048, dtype=getattr(torch, dtype)), float("inf")
    for _ in range(6):
        start = time.process_time()
        torch.mm(matrix, matrix)
        best = min(best, time.process_time() - start)
    return 2 * 2048**3 / best


def ours(precision: str, mode: Any = "off") -> tuple[float, float]:
    """The stage's own work in the loop, as pretrain runs it."""
    import torch

    from tasks.training import attention
    from tasks.training.compiling import compiled
    from tasks.training.loop import LoopParams, run
    from tasks.training.next_token import NextToken
    from tasks.training.rows import Rows

    network, marks = model(), list[float]()

    class Timed(NextToken):
        def batches(self, step: int) -> Sequence[Any]:
            marks.append(time.process_time())
            return super().batches(step)

    work = Timed(network, Rows(stream(), LENGTH, ROWS, ROWS, 0, 0), None, None)
    params = LoopParams(steps=STEPS, learning_rate=1e-3, precision=precision, device="cpu")
    device = torch.device("cpu")
    with TemporaryDirectory() as folder, attention.packed(network), compiled(network, mode, STEPS, device):
        rows = run(work, params, Path(folder), "bench")
    return best_step(marks), rows[-1]["loss"]


def trainer(bf16: bool) -> tuple[float, float]:
    """Hugging Face's Trainer with its defaults, on the same rows."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from tasks.training.rows import Rows

    rows, marks = Rows(stream(), LENGTH, ROWS, ROWS, 0, 0), list[float]()

    class Data(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return STEPS * ROWS

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = rows.batches(index // ROWS)[0].ids[index % ROWS]
            return {"input_ids": ids, "labels": ids}

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(time.process_time())

    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=ROWS, max_steps=STEPS, use_cpu=True, bf16=bf16, report_to=[],
            save_strategy="no", logging_strategy="no", learning_rate=1e-3, disable_tqdm=True,
        )  # fmt: skip
        done = Trainer(model(), arguments, train_dataset=Data(), callbacks=[Clock()]).train()
    return best_step(marks), done.training_loss


def best_step(marks: Sequence[float]) -> float:
    """CPU seconds of the fastest step, from what the clock said at the start of each."""
    return min(after - before for before, after in pairwise(marks))


def measure(engine: str) -> tuple[float, float]:
    """CPU seconds of a step of `engine`, and the loss it came to."""
    runs = {
        "ours": lambda: ours("bf16"),
        "ours_compiled": lambda: ours("bf16", "on"),
        "ours_fp32": lambda: ours("fp32"),
        "trainer_fp32": lambda: trainer(False),
        "trainer_bf16": lambda: trainer(True),
    }
    return runs[engine]()


if __name__ == "__main__":
    main()
