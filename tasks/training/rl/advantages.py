"""How much better each answer token did than expected. Tensors are [answers, tokens], padded behind; `mask` is bool."""

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["gae", "grpo", "rloo", "reinforce++"]


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns (Schulman 2015, arXiv:1506.02438). The value behind an answer's last token is 0.

    A_t = d_t + gamma lambda A_{t+1} with d_t = r_t + gamma V_{t+1} - V_t; the return is A_t + V_t.
    """
    advantages = torch.zeros_like(rewards)
    later = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(later)
    for t in reversed(range(rewards.shape[1])):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        later = torch.where(here, delta + gamma * gae_lambda * later, 0.0)
        next_value = torch.where(here, values[:, t], 0.0)
        advantages[:, t] = later
    return advantages, (advantages + values) * mask


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """The discounted sum of this token's and all later rewards: REINFORCE's, and before whitening REINFORCE++'s."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


def grpo(scores: Tensor, group_size: int, epsilon: float = 1e-4) -> Tensor:
    """(score - mean) / standard deviation within each prompt's group (Shao 2024, arXiv:2402.03300): [answers].

    `scores`: [answers]; the answers to one prompt stand together. A group of equal scores gets 0.
    """
    groups = scores.view(-1, group_size)
    centered = groups - groups.mean(1, keepdim=True)
    return (centered / (groups.std(1, keepdim=True) + epsilon)).flatten()


def rloo(scores: Tensor, group_size: int) -> Tensor:
    """score minus the mean of the other answers to the same prompt (Ahmadian 2024, arXiv:2402.14740): [answers]."""
    groups = scores.view(-1, group_size)
    return ((groups - groups.mean(1, keepdim=True)) * group_size / (group_size - 1)).flatten()


def whiten(numbers: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Mean 0 (unless `shift_mean` is off) and variance 1 over the whole batch, 0 behind the answers.

    Advantages: "The N Implementation Details of RLHF with PPO" (Huang et al. 2023), detail on whitening.
    """
    kept = numbers[mask]
    mean = kept.mean()
    scaled = (numbers - mean) * torch.rsqrt(kept.var(correction=min(1, len(kept) - 1)) + 1e-8)
    return (scaled if shift_mean else scaled + mean) * mask
