"""Next-token training on packed rows: what pretrain and sft bring to the loop."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tasks.training.language.losses import next_token_loss
from tasks.training.language.rows import Batch, Rows
from tasks.training.language.trunk import head_weight, hidden_and_balance
from tasks.training.loop.training_loop import Work


class NextToken(Work):
    """Cross-entropy on the targets of `train`; the mean over `validation` (at most `max_rows` of it) as evaluation."""

    def __init__(self, model: nn.Module, train: Rows, validation: Rows | None, max_rows: int | None) -> None:
        self.model, self.train, self.validation, self.max_rows = model, train, validation, max_rows
        self.notes: list[str] = []

    def batches(self, step: int) -> Sequence[Batch]:
        """The rows of one step."""
        return self.train.batches(step)

    def held_out(self) -> Iterable[Batch]:
        """The validation rows, the same every time."""
        return self.validation.once(self.max_rows) if self.validation is not None else ()

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean cross-entropy over the targets of one micro-batch; in training, plus the balance of experts."""
        device = head_weight(self.model).device
        hidden, balance = hidden_and_balance(self.model, batch.ids.to(device), batch.positions.to(device))
        loss, _ = next_token_loss(hidden, head_weight(self.model), batch.targets.to(device))
        if balance is None or not self.model.training:
            return loss, {}
        return loss + balance, {"cross_entropy": loss.detach()}

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Means over the validation rows: the cross-entropy, and what `loss` has to say besides."""
        means: dict[str, float] = {}
        count = 0.0
        for batch in self.held_out():
            loss, numbers = self.loss(batch) if batch.weight else (0.0, {})
            for name, value in {"loss": loss, **numbers}.items():
                means[name] = means.get(name, 0.0) + float(value) * batch.weight
            count += batch.weight
        return {f"validation_{name}": total / max(1.0, count) for name, total in means.items()}

    def skipped(self, step: int, norm: float, batches: Sequence[Batch]) -> None:
        """Note which rows of the stream the step would have learned from."""
        rows = ", ".join(str(row) for batch in batches for row in batch.rows)
        self.notes.append(f"step {step} was skipped: gradient norm {norm:.3g}; its rows in the token stream: {rows}")
        print(self.notes[-1], file=sys.stderr, flush=True)

    def state_dict(self) -> dict[str, Any]:
        """The notes so far."""
        return {"notes": self.notes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.notes = list(state["notes"])
