"""The loss of packed rows, by the method that was chosen for the model."""

from typing import Any

from torch import Tensor

from tasks.causal import backbone, heads
from tasks.causal.losses import next_token_loss


def row_loss(model: Any, ids: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean cross-entropy in nats over the targets of packed rows, and the load-balancing loss of experts, if any.

    ids, positions, targets: int64 [rows, length]; targets without a loss are IGNORED.
    """
    hidden, load_balancing_loss = backbone.hidden_and_load_balancing_loss(model, ids, positions)
    return next_token_loss(hidden, heads.head(model), targets)[0], load_balancing_loss
