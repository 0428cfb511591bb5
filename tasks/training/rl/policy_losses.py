"""The losses of PPO on answer tokens: tensors are flat, [tokens], and contain no padding."""

import torch
from torch import Tensor


def policy_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """The negated clipped surrogate (Schulman 2017, arXiv:1707.06347, eq. 7), and where clipping was active (bool).

    max(-A r, -A clip(r, 1 - c, 1 + c)) with r = exp(log_probs - old), where `old` are the log-probabilities under the
    policy that generated the tokens.
    """
    # The maximum is pessimistic: a change beyond the clip range gains nothing (and has no gradient), but a change in
    # the wrong direction is penalized in full, however large it is.
    ratio = torch.exp(log_probs - old)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(unclipped, clipped), clipped > unclipped


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Half the squared error of the values; a change from the old value by more than `clip_range` gains nothing.

    max((V - R)^2, (clip(V, old - c, old + c) - R)^2) / 2, as in OpenAI's baselines and "Implementation Matters in Deep
    Policy Gradients" (Engstrom 2020, arXiv:2005.12729).
    """
    loss = (values - returns).square()
    if clip_range is not None:
        clipped = torch.clamp(values, old - clip_range, old + clip_range)
        loss = torch.maximum(loss, (clipped - returns).square())
    return loss / 2


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats of distributions, given as log-probabilities [tokens, vocab_size]: [tokens]."""
    # As a product of matrices instead of (p * log p).sum(): it needs no third tensor of this size.
    return -(log_p.exp()[:, None, :] @ log_p[:, :, None]).flatten()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant, negative for a worse one."""
    variance = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / variance if variance > 0 else 0.0
