"""One model, one stream of documents, and the engines that train it: ours, Hugging Face's Trainer, a loop by hand."""

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

from tasks.tokenization import packing
from tasks.training.estimate.counting import Vocabulary
from tasks.training.language import attention
from tasks.training.language.compilation import Mode, compiled
from tasks.training.language.float8 import float8_training
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedRows
from tasks.training.loop.params import LoopParams
from tasks.training.loop.throughput import flops_of
from tasks.training.loop.training_loop import run
from tasks.training.shape.architecture import Architecture, build


@dataclass(frozen=True)
class World:
    """What every engine gets: a Llama, and rows of `length` tokens, `rows` of them a step."""

    shape: dict[str, int]
    vocab: int
    length: int
    rows: int
    steps: int
    device: torch.device = field(default=torch.device("cpu"))

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.length

    def model(self) -> Any:
        """The model with the weights that it begins with."""
        return build(Architecture(**self.shape), Vocabulary(self.vocab), 0)

    def batches(self) -> PackedRows:
        """Documents of 20 to 400 made-up tokens in rows: Zipf's law, so that there is something to learn."""
        chance = np.random.default_rng(0)
        lengths = chance.integers(20, 400, max(200, self.tokens * self.steps // 200))
        stream = packing.concatenate([np.minimum(chance.zipf(1.3, n) + 5, self.vocab - 1) for n in lengths], self.vocab)
        return PackedRows(stream, self.length, self.rows, self.rows, 0, 0)

    def flops_per_token(self) -> float:
        """As the progress line counts them: forward and backward, causal attention by half a row."""
        by_weights, by_length = flops_of(self.model())
        return by_weights + by_length * self.length

    def now(self) -> float:
        """CPU seconds of this process on a CPU; on a GPU seconds, with all work done that was asked for."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


Outcome = tuple[float, float]
"""Seconds of the fastest step, and the loss of the last one (of the Trainer: the mean of all)."""


def ours(world: World, precision: str, mode: Mode = "off", fp8: bool = False, deterministic: bool = True) -> Outcome:
    """The stage's own work in the loop, as pretrain runs it. Documents in a row do not see each other."""
    network, marks = world.model().to(world.device), list[float]()

    class Timed(NextToken):
        def batches(self, step: int) -> Sequence[Any]:
            marks.append(world.now())
            return super().batches(step)

    work = Timed(network, world.batches(), None, None)
    settings: dict[str, Any] = {"precision": precision, "device": world.device.type, "deterministic": deterministic}
    params = LoopParams(steps=world.steps, learning_rate=1e-3, **settings)
    fast = float8_training(network, fp8, world.device), compiled(network, mode, world.steps, world.device)
    with TemporaryDirectory() as folder, attention.packed(network), fast[0], fast[1]:
        rows = run(work, params, Path(folder), "bench")
    return _fastest(marks), rows[-1]["loss"]


def trainer(world: World, **arguments: Any) -> Outcome:
    """Hugging Face's Trainer with its defaults but for `arguments`, on the same rows."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    rows, marks = world.batches(), list[float]()

    class Data(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
        def __len__(self) -> int:
            return world.steps * world.rows

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = rows.batches(index // world.rows)[0].ids[index % world.rows]
            return {"input_ids": ids, "labels": ids}

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(world.now())

    with TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, per_device_train_batch_size=world.rows, max_steps=world.steps, use_cpu=world.device.type == "cpu",
            report_to=[], save_strategy="no", logging_strategy="no", learning_rate=1e-3, disable_tqdm=True, **arguments,
        )  # fmt: skip
        done = Trainer(world.model(), settings, train_dataset=Data(), callbacks=[Clock()]).train()
    return _fastest(marks), done.training_loss


def by_hand(world: World) -> Outcome:
    """A short loop as nanoGPT's: autocast to bf16, the model compiled, fused AdamW, whole logits."""
    network, rows, marks = world.model().to(world.device).train(), world.batches(), list[float]()
    step = _step(network, torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True))
    for ids in _ids(rows, world):
        marks.append(world.now())
        loss = step(ids)
    return _fastest(marks), float(loss)


def _ids(rows: PackedRows, world: World) -> Iterator[torch.Tensor]:
    return (rows.batches(step)[0].ids.to(world.device, non_blocking=True) for step in range(world.steps))


def _step(network: Any, optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], torch.Tensor]:
    forward: Any = torch.compile(network)

    def step(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(ids.device.type, torch.bfloat16):
            logits = forward(ids).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _fastest(marks: Sequence[float]) -> float:
    """Seconds of the fastest step, from what the clock said at the start of each."""
    return min(after - before for before, after in pairwise(marks))
