"""PPO's losses on answer tokens, each [tokens]; flat, padding already gone."""

import torch
from torch import Tensor


def policy_loss(log_probs: Tensor, old: Tensor, advantages: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """The clipped surrogate (Schulman 2017, arXiv:1707.06347, eq. 7), negated, and where the clip was in force.

    max(-A r, -A clip(r, 1 - c, 1 + c)) with r = exp(log_probs - old).
    """
    ratio = torch.exp(log_probs - old)
    free = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(free, clipped), clipped > free


def value_loss(values: Tensor, old: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """Half the squared error of the values; moving away from the old value by over `clip_range` gains nothing.

    max((V - R)^2, (clip(V, old - c, old + c) - R)^2) / 2, as in OpenAI's baselines and "Implementation Matters in Deep
    Policy Gradients" (Engstrom 2020, arXiv:2005.12729).
    """
    loss = (values - returns).square()
    if clip_range is not None:
        near = torch.clamp(values, old - clip_range, old + clip_range)
        loss = torch.maximum(loss, (near - returns).square())
    return loss / 2


def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats of distributions given by their log-probabilities [tokens, vocab_size]: [tokens]."""
    return -(log_p.exp()[:, None, :] @ log_p[:, :, None]).flatten()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 = the critic knows all, 0 = nothing, below 0 = worse than that."""
    variance = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / variance if variance > 0 else 0.0
