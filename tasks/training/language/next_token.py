"""Next-token prediction on packed rows: the work that pretrain and sft give to the training loop."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tasks.causal import heads
from tasks.causal.row_loss import row_loss
from tasks.training.language.replay import ReplayedRows
from tasks.training.language.rows import PackedBatch, PackedRows
from tasks.training.loop.work import Work


class NextToken(Work):
    """Cross-entropy on the targets of `train`; an evaluation takes the mean over at most `max_rows` of `validation`."""

    def __init__(
        self, model: nn.Module, train: PackedRows, validation: PackedRows | None, max_rows: int | None
    ) -> None:
        self.model, self.train, self.validation, self.max_rows = model, train, validation, max_rows
        self.notes: list[str] = []

    def batches(self, step: int) -> Sequence[PackedBatch]:
        """The micro-batches of one step."""
        return self.train.batches(step)

    def validation_batches(self) -> Iterable[PackedBatch]:
        """The validation rows, the same ones every time."""
        return self.validation.once(self.max_rows) if self.validation is not None else ()

    def loss(self, batch: PackedBatch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean cross-entropy in nats over the targets of one micro-batch; in text of the base, divergence from it.

        For a mixture of experts in training, the load-balancing loss is added, and the cross-entropy alone is returned
        as a metric.
        """
        device = heads.device(self.model)
        ids, positions = batch.ids.to(device), batch.positions.to(device)
        text = self.train.text if isinstance(self.train, ReplayedRows) else None
        teacher = text.teacher(batch.rows, device) if text is not None else None
        loss, load_balancing_loss = row_loss(self.model, ids, positions, batch.targets.to(device), teacher)
        if load_balancing_loss is None or not self.model.training:
            return loss, {}
        return loss + load_balancing_loss, {"cross_entropy": loss.detach()}

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Means over the targets of the validation rows: the cross-entropy, and the other metrics of `loss`.

        `validation_replay_loss` is the cross-entropy of replayed text that is held out.
        """
        numbers = {f"validation_{name}": value for name, value in self._means(self.validation_batches()).items()}
        held_out = self.train.held_out if isinstance(self.train, ReplayedRows) else None
        if held_out is not None:
            numbers["validation_replay_loss"] = self._means(held_out.once(self.max_rows))["loss"]
        return numbers

    def _means(self, batches: Iterable[PackedBatch]) -> dict[str, float]:
        totals: dict[str, float] = {}
        num_targets = 0.0
        for batch in batches:
            loss, metrics = self.loss(batch) if batch.weight else (0.0, {})
            for name, value in {"loss": loss, **metrics}.items():
                totals[name] = totals.get(name, 0.0) + float(value) * batch.weight
            num_targets += batch.weight
        return {name: total / max(1.0, num_targets) for name, total in totals.items()}

    def skipped(self, step: int, norm: float, batches: Sequence[PackedBatch]) -> None:
        """Note which rows of the stream a skipped step contained."""
        names = (str(row) if row >= 0 else f"{-1 - row} of the replay" for batch in batches for row in batch.rows)
        rows = ", ".join(names)
        self.notes.append(f"step {step} was skipped: gradient norm {norm:.3g}; its rows in the token stream: {rows}")
        print(self.notes[-1], file=sys.stderr, flush=True)

    def state_dict(self) -> dict[str, Any]:
        """The notes so far, for a checkpoint."""
        return {"notes": self.notes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.notes = list(state["notes"])
