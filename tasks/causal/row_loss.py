"""The loss of packed rows, by the method that was chosen for the model."""

from typing import Any

from torch import Tensor

from tasks.causal import backbone, heads, methods
from tasks.causal.backbone import Output
from tasks.causal.losses import next_token_loss


def row_loss(model: Any, ids: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean cross-entropy in nats over the targets of packed rows, and the load-balancing loss of experts, if any.

    ids, positions, targets: int64 [rows, length]; targets without a loss are IGNORED.
    """
    if methods.of(model).loss == "model":
        logits = backbone.by_document(model, ids, positions, read=_own_logits).hidden
        return next_token_loss(logits, lambda own: own, targets)[0], None
    hidden, load_balancing_loss = backbone.hidden_and_load_balancing_loss(model, ids, positions)
    return next_token_loss(hidden, heads.head(model), targets)[0], load_balancing_loss


def _own_logits(model: Any, ids: Tensor, _: bool) -> Output:
    """The logits of the model's own forward pass, in place of hidden states."""
    return Output(model(input_ids=ids).logits[:, -ids.shape[1] :])
