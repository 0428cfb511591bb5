"""The loss of packed rows, by the method that was chosen for the model."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tasks.causal import backbone, heads
from tasks.causal.losses import IGNORED, divergence, next_token_loss


@dataclass(frozen=True)
class Teacher:
    """Rows whose loss is the divergence from another model, and what that model predicts at each place of them.

    is_taught: bool [rows]. tokens, log_probs [taught rows, length, k]: its most probable next tokens.
    """

    is_taught: Tensor
    tokens: Tensor
    log_probs: Tensor


def row_loss(
    model: Any, ids: Tensor, positions: Tensor, targets: Tensor, teacher: Teacher | None = None
) -> tuple[Tensor, Tensor | None]:
    """Mean cross-entropy in nats over the targets of packed rows, and the load-balancing loss of experts, if any.

    ids, positions, targets: int64 [rows, length]; targets without a loss are IGNORED. In the rows of a teacher, the
    divergence from it takes the place of the cross-entropy.
    """
    hidden, load_balancing_loss = backbone.hidden_and_load_balancing_loss(model, ids, positions)
    head = heads.head(model)
    if teacher is None:
        return next_token_loss(hidden, head, targets)[0], load_balancing_loss
    own, num_own = next_token_loss(hidden[~teacher.is_taught], head, targets[~teacher.is_taught])
    has_target = targets[teacher.is_taught] != IGNORED
    states = hidden[teacher.is_taught][has_target]
    divergences = divergence(states, head, teacher.tokens[has_target], teacher.log_probs[has_target])
    total = own * num_own + divergences.sum()
    return total / max(1, num_own + len(divergences)), load_balancing_loss
