"""One model, one stream of documents, and the engines that train it: Athanor, Hugging Face's Trainer, a plain loop."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tasks.causal import attention
from tasks.tokenization import packing
from tasks.training.estimate.counting import Vocabulary
from tasks.training.language.compilation import Mode, compiled
from tasks.training.language.float8 import float8_training
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.loop.params import LoopParams
from tasks.training.loop.throughput import flops_of
from tasks.training.loop.training_loop import run
from tasks.training.shape.architecture import Architecture, build


@dataclass(frozen=True)
class Workload:
    """What every engine trains: a Llama of `shape`, on `rows` rows of `length` tokens per step."""

    shape: dict[str, int]
    vocab: int
    length: int
    rows: int
    steps: int
    device: torch.device = field(default=torch.device("cpu"))

    @property
    def tokens(self) -> int:
        """The number of tokens in one step."""
        return self.rows * self.length

    def model(self) -> Any:
        """The model with its initial weights, which are the same for every engine."""
        return build(Architecture(**self.shape), Vocabulary(self.vocab), 0)

    def batches(self) -> PackedRows:
        """Rows of documents of 20 to 400 random tokens. They follow Zipf's law, so that there is something to learn."""
        rng = np.random.default_rng(0)
        lengths = rng.integers(20, 400, max(200, self.tokens * self.steps // 200))
        stream = packing.concatenate([np.minimum(rng.zipf(1.3, n) + 5, self.vocab - 1) for n in lengths], self.vocab)
        return PackedRows(stream, self.length, self.rows, self.rows, 0, 0)

    def flops_per_token(self) -> float:
        """FLOPs per token, counted as in the progress line: forward and backward pass; attention over half a row."""
        by_weights, by_length = flops_of(self.model())
        return by_weights + by_length * self.length

    def now(self) -> float:
        """CPU seconds of this process on a CPU; seconds on a GPU, after all kernels that were started have ended."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


Outcome = tuple[float, float]
"""Seconds of the fastest step, and the loss of the last step (for the Trainer: the mean loss of all steps)."""


def time_athanor(
    workload: Workload, precision: str, mode: Mode = "off", fp8: bool = False, deterministic: bool = True
) -> Outcome:
    """Train with Athanor's loop as the stage pretrain does. Attention isolates the documents of a row."""
    model, starts = workload.model().to(workload.device), list[float]()

    class Timed(NextToken):
        def batches(self, step: int) -> Sequence[Any]:
            starts.append(workload.now())
            return super().batches(step)

    work = Timed(model, workload.batches(), None, None)
    settings: dict[str, Any] = {"precision": precision, "device": workload.device.type, "deterministic": deterministic}
    params = LoopParams(steps=workload.steps, learning_rate=1e-3, **settings)
    in_float8 = float8_training(model, fp8, workload.device)
    compilation = compiled(model, mode, workload.steps, workload.device)
    with TemporaryDirectory() as folder, attention.packed(model), in_float8, compilation:
        rows = run(work, params, Path(folder), "bench")
    return _fastest(starts), rows[-1]["loss"]


def time_trainer(workload: Workload, **arguments: Any) -> Outcome:
    """Train with Hugging Face's Trainer on the same rows, with its defaults except for `arguments`."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows, starts = workload.batches(), list[float]()

    class Data(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return workload.steps * workload.rows

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = rows.batches(index // workload.rows)[0].ids[index % workload.rows]
            return {"input_ids": ids, "labels": ids}

    class RecordStarts(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            starts.append(workload.now())

    with TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=workload.rows, max_steps=workload.steps,
            use_cpu=workload.device.type == "cpu", report_to=[],
            save_strategy="no", logging_strategy="no", learning_rate=1e-3, disable_tqdm=True, **arguments,
        )  # fmt: skip
        output = Trainer(workload.model(), settings, train_dataset=Data(), callbacks=[RecordStarts()]).train()
    return _fastest(starts), output.training_loss


def time_plain_loop(workload: Workload) -> Outcome:
    """Train with a short loop like nanoGPT's: autocast to bf16, compiled model, fused AdamW, full logits."""
    model, rows, starts = workload.model().to(workload.device).train(), workload.batches(), list[float]()
    step = _step(model, torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True))
    for ids in _ids(rows, workload):
        starts.append(workload.now())
        loss = step(ids)
    return _fastest(starts), float(loss)


def _ids(rows: PackedRows, workload: Workload) -> Iterator[torch.Tensor]:
    return (rows.batches(step)[0].ids.to(workload.device, non_blocking=True) for step in range(workload.steps))


def _step(model: Any, optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], torch.Tensor]:
    forward: Any = torch.compile(model)

    def step(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16):
            logits = forward(ids).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _fastest(starts: Sequence[float]) -> float:
    """Seconds of the fastest step, from the times at which the steps started."""
    return min(after - before for before, after in pairwise(starts))
