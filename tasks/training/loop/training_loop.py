"""The one optimization loop. A stage brings batches and a loss; the loop does the rest.

That is: accumulation, clipping, precision, schedule, the step log, evaluation and checkpoints.
Batches and randomness are pure functions of (seed, step), so that a run that is killed and started again ends in the
same weights, byte for byte, as one that was not.
"""

import csv
import hashlib
import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from tasks.errors import BadParams
from tasks.progress import Progress
from tasks.reports import Timings
from tasks.training.loop import checkpoint, optimizers, schedules
from tasks.training.loop.interruption import Interruption
from tasks.training.loop.spikes import LossScale, Spikes
from tasks.training.loop.throughput import Speed
from tasks.training.parallel import processes, strategies
from tasks.training.parallel.precision import Precision, choose, exact, tf32

Row = dict[str, Any]


class LoopParams(BaseModel, frozen=True, extra="forbid"):
    """The dials that every training stage has; a stage's Params inherit them."""

    seed: int = Field(0, ge=0)
    steps: int = Field(1000, ge=1, description="optimizer updates")
    learning_rate: float = Field(1e-3, gt=0)
    embedding_learning_rate: float | None = Field(None, gt=0, description="embeddings and head; none = learning_rate")
    schedule: schedules.Name = "cosine"
    warmup_steps: int = Field(50, ge=0)
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1)
    optimizer: optimizers.Name = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    max_spike: float | None = Field(10.0, gt=1, description="skip steps whose gradient is this many medians; none = no")
    precision: Precision = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gradient_checkpointing: bool = False
    exact: bool = Field(True, description="on a GPU: kernels that give the same bytes every time, a little slower")
    launch: strategies.Launch = Field(default_factory=lambda: strategies.Launch.model_validate({}))
    num_threads: int | None = Field(None, ge=1, description="torch threads; none = torch's own choice")
    log_every: int = Field(10, ge=1, description="steps per row of the step log")
    evaluate_every: int | None = Field(None, ge=1, description="steps; none = after the last step only")
    keep_best: bool = Field(False, description="end with the weights of the lowest validation_loss")
    checkpoint_every: int | None = Field(None, ge=1, description="steps; none = so that saving costs under 1 %")
    keep_checkpoints: int = Field(2, ge=1)


class Work(ABC):
    """What a stage brings to the loop. Inherit and override; the first two methods are required."""

    model: nn.Module  # every trainable weight, in fp32; PPO puts its value head in here too
    strategy: strategies.Strategy | None = None  # how it is shared by processes; the loop sets it

    @abstractmethod
    def batches(self, step: int) -> Sequence[Any]:
        """The micro-batches of one step, each with a `weight`: how many targets or pairs it holds.

        A pure function of (seed, step), or of that and what `state_dict` holds at a step that may be a checkpoint.
        """

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean loss over one micro-batch (scalar) and numbers for the step log; the loop averages by weight."""

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Numbers on validation data after `step` steps. The model is in eval mode and gradients are off."""
        return {}

    def may_checkpoint(self, step: int) -> bool:
        """Whether weights and `state_dict` say everything after `step` steps; PPO: only between rollouts."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides weights: nested dicts and lists of tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most have nothing to take
        """Take back what `state_dict` gave."""

    def skipped(self, step: int, norm: float, batches: Sequence[Any]) -> None:
        """Told that `step` was skipped as if its batches had never been: gradients of that norm are no use."""
        print(f"step {step} was skipped: the norm of its gradient is {norm:.3g}", file=sys.stderr, flush=True)

    def stop(self) -> str | None:
        """Asked after every step: a reason to end the run early, or None."""
        return None

    def whole(self) -> AbstractContextManager[None]:
        """What a pass through the model outside of `loss` and `evaluate` must stand in: weights may be in parts."""
        return self.strategy.whole() if self.strategy is not None else nullcontext()


class HasWeight(Protocol):
    """A micro-batch, as far as the loop can see it."""

    weight: float


def run(work: Work, params: LoopParams, checkpoints: Path, name: str, timings: Timings | None = None) -> list[Row]:
    """Train `work.model` in place; the rows of the step log, all with the same columns.

    Goes on from the newest whole checkpoint in `checkpoints` by itself. SIGTERM and Ctrl-C write one, then take effect.
    `timings` are told how fast it went.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(params.num_threads or threads)
    try:
        device = chosen_device(params.device)
        with torch.random.fork_rng(devices=[]), tf32(device), exact(device, params.exact):
            this = _Run(work, params, checkpoints)
            rows = this.all_steps(name)
            if timings is not None:
                timings.values.update(this.speed.timings())
            return rows
    finally:
        torch.set_num_threads(threads)


class _Run:
    def __init__(self, work: Work, params: LoopParams, checkpoints: Path) -> None:
        self.work, self.params, self.folder = work, params, checkpoints
        device = chosen_device(params.device)
        _checkpoint_activations(work.model, params.gradient_checkpointing)
        dtype = choose(params.precision, device)
        self.speed = Speed(work.model, device, dtype, processes.count())
        self.strategy = work.strategy = strategies.begin(params.launch, work, dtype, device)
        self.weights = self.strategy.weights
        named = list(zip(self.weights.names, self.weights.masters, strict=True))
        self.optimizers = optimizers.build(
            params.optimizer,
            named,
            weight_decay=params.weight_decay,
            betas=params.betas,
            table_factor=(params.embedding_learning_rate or params.learning_rate) / params.learning_rate,
        )
        self.strategy.adopt(self.optimizers)
        self.spikes, self.scale = Spikes(params.max_spike), LossScale(dtype == torch.float16)
        self.step, self.rows, self.ended = 0, list[Row](), ""
        self.best: dict[str, Any] = {}
        self.identity = _identity(params)
        self.saver = checkpoint.Saver(checkpoints, params.keep_checkpoints, params.checkpoint_every, self.identity)

    def all_steps(self, name: str) -> list[Row]:
        self._resume()
        first = processes.rank() == 0
        saver = self.saver if first else nullcontext()
        shown = Progress(name, self.params.steps, "steps", initial=self.step) if first else nullcontext()
        with shown as progress, Interruption() as interruption, saver:
            while self.step < self.params.steps and not self.ended:
                self._one_step()
                if progress is not None:
                    progress.advance(1, self._note)
                self._save(interruption)
        if self.best:
            self.strategy.take_weights(self.best["weights"])
        self.strategy.restore()
        self.work.strategy = None
        return self.rows

    def _note(self) -> str:
        """Shown beside the steps; the loss is that of the newest row."""
        return f"loss {self.rows[-1]['loss']:.3f}, {self.speed.note()}" if self.rows else ""

    def _save(self, interruption: Interruption) -> None:
        """A checkpoint, if one is due or a signal has come. All processes gather it, the first one writes."""
        first = processes.rank() == 0
        asked, due = processes.any_of(interruption.asked is not None, first and self.saver.due(self.step))
        if (asked or due) and self.work.may_checkpoint(self.step):
            state = self._state()
            if first:
                (self.saver.save if asked else self.saver.save_beside)(self.step, state)
        interruption.take_effect()

    def _one_step(self) -> None:
        rate = self._set_learning_rate()
        torch.manual_seed(self.params.seed * 1_000_003 + self.step)
        batches = self.work.batches(self.step)
        self.speed.add(batches)
        self.work.model.train()
        numbers = self._gradients(batches)
        norm = self._update(batches)
        self.step += 1
        self.ended = self.work.stop() or ""
        self._log(numbers, {"gradient_norm": norm, "learning_rate": rate})

    def _update(self, batches: Sequence[HasWeight]) -> float:
        """One optimizer update, unless its gradients are out of all bounds; their norm before clipping."""
        self.weights.divide_gradients(self.scale.value)
        self.strategy.add_up_gradients()
        norm = self.strategy.clip(self.params.max_gradient_norm)
        self.scale.learn(math.isfinite(norm))
        if self.spikes.too_much(norm, self.step + 1):
            self.work.skipped(self.step + 1, norm, batches)
        else:
            self.strategy.update(self.optimizers)
        self.strategy.forget_gradients(self.optimizers)
        return norm

    def _set_learning_rate(self) -> float:
        p = self.params
        share = schedules.factor(p.schedule, self.step, p.steps, p.warmup_steps, p.min_learning_rate_ratio)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = p.learning_rate * share * group["factor"]
        return p.learning_rate * share

    def _gradients(self, batches: Sequence[HasWeight]) -> Mapping[str, Tensor | float]:
        """Gradients of the whole step into the masters; losses and numbers of this process's part, by weight."""
        means: dict[str, Tensor | float] = {"loss": 0.0}
        for batch, share in self.strategy.mine(batches):
            loss, numbers = self.strategy.loss(batch)
            self.strategy.backward(loss * (share * self.scale.value))
            for key, value in {"loss": loss.detach(), **numbers}.items():
                means[key] = means.get(key, 0.0) + share * value
        return means

    def _log(self, numbers: Mapping[str, Tensor | float], others: Mapping[str, float]) -> None:
        """A row of the step log, where one is due: only then is a GPU waited for, and the other processes asked."""
        last = self.step == self.params.steps or bool(self.ended)
        every = self.params.evaluate_every
        evaluated = last or (every is not None and self.step % every == 0)
        if not evaluated and self.step != 1 and self.step % self.params.log_every:
            return
        row = {"step": self.step, **self.strategy.add_up(numbers), **others}
        if evaluated:
            self.work.model.eval()
            with torch.no_grad(), self.strategy.whole():
                row |= self.work.evaluate(self.step)
            self._remember(row)
        self.rows = even([*self.rows, row])
        if processes.rank() == 0:
            write_rows(self.folder / "steps.csv", self.rows)

    def _remember(self, row: Row) -> None:
        """Keep the weights with the lowest validation loss, where params ask for them."""
        loss = row.get("validation_loss")
        if self.params.keep_best and loss is not None and loss < self.best.get("loss", math.inf):
            self.best = {"loss": loss, "step": self.step, "weights": self.strategy.copied_weights()}

    def _state(self) -> dict[str, Any]:
        state = {
            "step": self.step,
            "rows": self.rows,
            "ended": self.ended,
            "best": self.best,
            **self.strategy.state(self.optimizers),
            "buffers": dict(self.work.model.named_buffers()),
            "spikes": self.spikes.state_dict(),
            "scale": self.scale.state_dict(),
            "work": self.work.state_dict(),
        }
        return dict(processes.put_together(state))

    def _resume(self) -> None:
        state = checkpoint.newest(self.folder, self.identity)
        if state is None:
            return
        self.strategy.take_weights(state["weights"])
        with torch.no_grad():
            for name, buffer in self.work.model.named_buffers():
                buffer.copy_(state["buffers"][name])
        self.strategy.take_optimizers(self.optimizers, state["optimizers"])
        for part in ("spikes", "scale", "work"):
            getattr(self, part).load_state_dict(state[part])
        self.step, self.rows, self.ended, self.best = (state[key] for key in ("step", "rows", "ended", "best"))


def chosen_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device for `name`; "auto" is the GPU where there is one. Raises BadParams where it is missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BadParams("device is cuda, but torch sees no GPU here; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _checkpoint_activations(model: nn.Module, wanted: bool) -> None:
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    for module in model.modules():
        enable: Any = getattr(module, "activation_checkpointing_enable", None)
        if wanted and enable is not None:
            enable()


def _identity(params: LoopParams) -> str:
    """Checkpoints of a run with other params are another run's."""
    body = params.model_dump_json(exclude={"checkpoint_every", "keep_checkpoints", "num_threads", "launch"})
    return hashlib.sha256(body.encode()).hexdigest()


def even(rows: Sequence[Row]) -> list[Row]:
    """Rows with the columns of all, in the order they were first seen; None where a row has no value."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{column: row.get(column) for column in columns} for row in rows]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """The step log so far, for whoever watches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
