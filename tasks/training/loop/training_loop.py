"""The training loop. A stage brings batches and a loss (work.py); the loop does the rest.

It accumulates gradients, clips them, handles precision and the schedule, writes the step log, evaluates, and saves
checkpoints. Batches and randomness are pure functions of (seed, step), so a run that was killed and resumed ends with
the same weights, byte for byte, as a run that was not.

One step, in order (`_Run._one_step`):

1. set the learning rate of the schedule, seed torch by (seed, step), and get the micro-batches of the step;
2. forward and backward for each micro-batch of this process; its loss is scaled by its share of the step's weight, so
   that the sum over micro-batches and processes is the gradient of the mean loss (`_accumulate_gradients`);
3. undo the fp16 loss scale, sum gradients over the processes, clip them by their global norm (`_update`);
4. update the weights, unless the norm is an outlier, and zero the gradients;
5. append a row to the step log and evaluate where that is due (`_log`), then save a checkpoint where that is due.
"""

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.progress import Progress
from tasks.reports import Timings
from tasks.training.loop import checkpoint, optimizers, schedules
from tasks.training.loop.interruption import Interruption
from tasks.training.loop.params import LoopParams, resolve_device
from tasks.training.loop.spikes import LossScale, SpikeDetector
from tasks.training.loop.throughput import Throughput
from tasks.training.loop.work import HasWeight, Work
from tasks.training.parallel import processes, strategies
from tasks.training.parallel.precision import choose, deterministic, tf32

Row = dict[str, Any]  # a row of the step log


def run(work: Work, params: LoopParams, checkpoints: Path, name: str, timings: Timings | None = None) -> list[Row]:
    """Train `work.model` in place and return the rows of the step log, all with the same columns.

    A run continues from the newest complete checkpoint in `checkpoints`. SIGTERM and Ctrl-C write a checkpoint before
    they take effect. `timings` receives the throughput.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(params.num_threads or threads)
    try:
        device = resolve_device(params.device)
        with torch.random.fork_rng(devices=[]), tf32(device), deterministic(device, params.deterministic):
            loop = _Run(work, params, checkpoints)
            rows = loop.run_steps(name)
            if timings is not None:
                timings.values.update(loop.throughput.timings())
            return rows
    finally:
        torch.set_num_threads(threads)


class _Run:
    """The state of one run: model, optimizers, step number and step log."""

    def __init__(self, work: Work, params: LoopParams, checkpoints: Path) -> None:
        self.work, self.params, self.folder = work, params, checkpoints
        # Order matters: a strategy wraps or shards the model as it is then, and replaces its parameters, so the
        # optimizers are made from the strategy's weights and not from the model's.
        device = resolve_device(params.device)
        _set_gradient_checkpointing(work.model, params.gradient_checkpointing)
        dtype = choose(params.precision, device)
        self.throughput = Throughput(work.model, device, dtype, processes.count())
        self.strategy = work.strategy = strategies.create(params.launch, work, dtype, device)
        self.weights = self.strategy.weights
        named = list(zip(self.weights.names, self.weights.masters, strict=True))
        self.optimizers = optimizers.build(
            params.optimizer,
            named,
            weight_decay=params.weight_decay,
            betas=params.betas,
            # A factor, because the loop sets the rates of all groups from one schedule.
            embedding_factor=(params.embedding_learning_rate or params.learning_rate) / params.learning_rate,
        )
        self.strategy.register(self.optimizers)
        self.spikes, self.scale = SpikeDetector(params.max_spike), LossScale(dtype == torch.float16)
        self.step, self.rows, self.ended = 0, list[Row](), ""
        self.best: dict[str, Any] = {}
        self.identity = identity(params)
        self.saver = checkpoint.Saver(checkpoints, params.keep_checkpoints, params.checkpoint_every, self.identity)

    def run_steps(self, name: str) -> list[Row]:
        self._resume()
        is_first = processes.rank() == 0
        saver = self.saver if is_first else nullcontext()
        bar = Progress(name, self.params.steps, "steps", initial=self.step) if is_first else nullcontext()
        with bar as progress, Interruption() as interruption, saver:
            if not self.rows and (self.params.evaluate_first or not self.params.steps):
                self._append({"step": 0}, True)
            while self.step < self.params.steps and not self.ended:
                self._one_step()
                if progress is not None:
                    progress.advance(1, self._note)
                self._save(interruption)
        if self.best:
            self.strategy.load_weights(self.best["weights"])
        self.strategy.restore()
        self.work.strategy = None
        return self.rows

    def _note(self) -> str:
        """The text beside the progress: the loss of the newest row and the throughput."""
        loss = self.rows[-1].get("loss") if self.rows else None
        return "" if loss is None else f"loss {loss:.3f}, {self.throughput.note()}"

    def _save(self, interruption: Interruption) -> None:
        """Save a checkpoint if one is due or a signal arrived. All processes gather it, the first one writes it."""
        is_first = processes.rank() == 0
        # Gathering is collective, so the processes must agree: a signal may reach them in different steps, and their
        # clocks differ.
        interrupted, due = processes.any_rank(
            interruption.pending_signal is not None, is_first and self.saver.due(self.step)
        )
        if (interrupted or due) and self.work.may_checkpoint(self.step):
            state = self._state()
            if is_first:
                # An interrupted process ends at once, so it must not leave the writing to a thread.
                (self.saver.save if interrupted else self.saver.save_async)(self.step, state)
        interruption.deliver()

    def _one_step(self) -> None:
        learning_rate = self._set_learning_rate()
        # The seed depends on the step, not on the history: a resumed run draws the same dropout masks.
        torch.manual_seed(self.params.seed * 1_000_003 + self.step)
        with self.throughput.part("batches"):
            batches = self.work.batches(self.step)
        self.throughput.add(batches)
        self.work.model.train()  # an evaluation or a rollout may have left eval mode
        with self.throughput.part("passes"):
            numbers = self._accumulate_gradients(batches)
        with self.throughput.part("optimizer"):
            norm = self._update(batches)
        self.step += 1
        self.ended = self.work.stop() or ""
        self._log(numbers, {"gradient_norm": norm, "learning_rate": learning_rate})

    def _update(self, batches: Sequence[HasWeight]) -> float:
        """Update the weights, unless the gradient norm is an outlier. Returns the norm before clipping."""
        self.weights.divide_gradients(self.scale.value)
        self.strategy.all_reduce_gradients()
        norm = self.strategy.clip(self.params.max_gradient_norm)
        self.scale.update(math.isfinite(norm))
        # The norm is that of the summed gradients, equal in all processes, so all of them decide alike.
        if self.spikes.is_spike(norm, self.step + 1):
            self.work.skipped(self.step + 1, norm, batches)
        else:
            self.strategy.update(self.optimizers)
        self.strategy.zero_grad(self.optimizers)
        return norm

    def _set_learning_rate(self) -> float:
        p = self.params
        share = schedules.factor(p.schedule, self.step, p.steps, p.num_warmup_steps, p.min_learning_rate_ratio)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = p.learning_rate * share * group["factor"]
        return p.learning_rate * share

    def _accumulate_gradients(self, batches: Sequence[HasWeight]) -> Mapping[str, Tensor | float]:
        """Add the gradients of the step to the master weights. Returns this process's part of the weighted means."""
        means: dict[str, Tensor | float] = {"loss": 0.0}
        for batch, share in self.strategy.local_batches(batches):
            loss, numbers = self.strategy.loss(batch)
            # The shares of all micro-batches of the step add up to 1 over all processes. Losses are scaled before
            # the backward pass, so the sum of gradients is the gradient of the mean over targets, however the
            # targets are distributed over micro-batches.
            self.strategy.backward(loss * (share * self.scale.value))
            for key, value in {"loss": loss.detach(), **numbers}.items():
                means[key] = means.get(key, 0.0) + share * value
        return means

    def _log(self, numbers: Mapping[str, Tensor | float], others: Mapping[str, float]) -> None:
        """Append a row to the step log where one is due.

        Only then does the loop wait for the GPU (numbers become floats) and for the other processes.
        """
        last = self.step == self.params.steps or bool(self.ended)
        every = self.params.evaluate_every
        evaluates = last or (every is not None and self.step % every == 0)
        if not evaluates and self.step != 1 and self.step % self.params.log_every:
            return
        self._append({"step": self.step, **self.strategy.all_reduce_sum(numbers), **others}, evaluates)

    def _append(self, row: Row, evaluates: bool) -> None:
        """Append a row to the step log, with the results of an evaluation if one is due."""
        if evaluates:
            self.work.model.eval()
            with torch.no_grad(), self.strategy.unsharded(), self.throughput.part("evaluation"):
                row |= self.work.evaluate(self.step)
            self._keep_best(row)
        self.rows = with_all_columns([*self.rows, row])
        if processes.rank() == 0:
            write_rows(self.folder / "steps.csv", self.rows)

    def _keep_best(self, row: Row) -> None:
        """Keep a copy of the weights with the lowest validation loss, where params.keep_best asks for it."""
        loss = row.get("validation_loss")
        if self.params.keep_best and loss is not None and loss < self.best.get("loss", math.inf):
            self.best = {"loss": loss, "step": self.step, "weights": self.strategy.clone_weights()}

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
        return dict(processes.gather_state(state))

    def _resume(self) -> None:
        state = checkpoint.load_newest(self.folder, self.identity)
        if state is None:
            return
        self.strategy.load_weights(state["weights"])
        with torch.no_grad():
            for name, buffer in self.work.model.named_buffers():
                buffer.copy_(state["buffers"][name])
        self.strategy.load_optimizer_states(self.optimizers, state["optimizers"])
        for part in ("spikes", "scale", "work"):
            getattr(self, part).load_state_dict(state[part])
        self.step, self.rows, self.ended, self.best = (state[key] for key in ("step", "rows", "ended", "best"))


def _set_gradient_checkpointing(model: nn.Module, enabled: bool) -> None:
    """Recompute activations in the backward pass instead of storing them (arXiv:1604.06174)."""
    for module in model.modules():
        enable: Any = getattr(module, "activation_checkpointing_enable", None)
        if enabled and enable is not None:
            enable()


def identity(params: LoopParams) -> str:
    """A hash of the params: a checkpoint that was made with other params belongs to another run.

    Params that change no result are left out, so that a run may continue with them changed.
    """
    unimportant = {"checkpoint_every", "keep_checkpoints", "num_threads", "launch", "from_scratch", "may_end_worse"}
    body = params.model_dump_json(exclude=unimportant)
    return hashlib.sha256(body.encode()).hexdigest()


def with_all_columns(rows: Sequence[Row]) -> list[Row]:
    """The rows with the columns of all of them, in order of first appearance; None where a row has no value."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{column: row.get(column) for column in columns} for row in rows]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the step log so far, so that others can read it while the run goes on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
