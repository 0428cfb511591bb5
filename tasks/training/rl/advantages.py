"""Advantages: how much better each token of an answer was than expected.

Tensors are [answers, tokens], padded on the right; `mask` is True at tokens. No gradient flows through any of them.
"""

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["gae", "grpo", "rloo", "reinforce++"]


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns by generalized advantage estimation (Schulman 2015, arXiv:1506.02438).

    A_t = d_t + gamma lambda A_{t+1} with d_t = r_t + gamma V_{t+1} - V_t; the return is A_t + V_t. `values` [answers,
    tokens] are those of the states in which the tokens were sampled; after the last token the value is 0, also for
    answers that were cut at max_new_tokens.
    """
    # lambda = 1 gives the rewards to come minus the value: no bias, but the noise of the whole answer. lambda = 0 gives
    # d_t, which trusts the critic completely. The recursion runs backward, because A_t needs A_{t+1}. Answers end at
    # different columns: the mask sets both carried numbers to 0 in the padding, so that each answer starts from 0.
    advantages = torch.zeros_like(rewards)
    next_advantage = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(next_advantage)
    for t in reversed(range(rewards.shape[1])):
        is_token = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(is_token, delta + gamma * gae_lambda * next_advantage, 0.0)
        next_value = torch.where(is_token, values[:, t], 0.0)
        advantages[:, t] = next_advantage
    return advantages, (advantages + values) * mask


def rewards_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """The discounted sum of the rewards from each token on: REINFORCE, and with whitening REINFORCE++."""
    # GAE with lambda 1 and no critic is this sum.
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


def grpo(scores: Tensor, group_size: int, epsilon: float = 1e-4) -> Tensor:
    """(score - mean) / standard deviation within each prompt's group (Shao 2024, arXiv:2402.03300): [answers].

    `scores`: [answers]; the answers to one prompt are adjacent. A group of equal scores gets 0.
    """
    # Division by the standard deviation gives prompts with nearly equal scores a large weight. `epsilon` bounds it.
    groups = scores.view(-1, group_size)
    centered = groups - groups.mean(1, keepdim=True)
    return (centered / (groups.std(1, keepdim=True) + epsilon)).flatten()


def rloo(scores: Tensor, group_size: int) -> Tensor:
    """score - mean of the other answers to the same prompt (Ahmadian 2024, arXiv:2402.14740): [answers]."""
    # The baseline must not contain the answer itself, or the gradient would be biased. With the mean m of all K
    # answers, score - mean of the others = (score - m) K / (K - 1).
    groups = scores.view(-1, group_size)
    return ((groups - groups.mean(1, keepdim=True)) * group_size / (group_size - 1)).flatten()


def whiten(numbers: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale to variance 1 and, with `shift_mean`, shift to mean 0 over all tokens of the batch; padding gets 0.

    As for advantages in "The N Implementation Details of RLHF with PPO" (Huang et al. 2023). Rewards keep their mean,
    so that each keeps its sign.
    """
    kept = numbers[mask]
    mean = kept.mean()
    scaled = (numbers - mean) * torch.rsqrt(kept.var(correction=min(1, len(kept) - 1)) + 1e-8)
    return (scaled if shift_mean else scaled + mean) * mask
