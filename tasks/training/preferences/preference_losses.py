"""Losses on preferences: the ranking loss of reward models, DPO, IPO and KTO; one loss per pair or answer.

A log-ratio is the log-probability of an answer under the policy minus that under the reference, in nats.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Kind = Literal["sigmoid", "ipo", "kto"]


def ranking_loss(
    chosen: Tensor, rejected: Tensor, margin: float = 0.0, label_smoothing: float = 0.0, centering: float = 0.0
) -> Tensor:
    """Bradley-Terry: -log sigmoid(chosen - rejected - margin) of each pair, [pairs] (Ouyang 2022, arXiv:2203.02155).

    `margin` is subtracted from the difference, so that a larger difference is needed (Llama 2, arXiv:2307.09288);
    `label_smoothing` is the assumed share of wrong labels; `centering` weighs (chosen + rejected)^2, which moves the
    mean score toward 0 (arXiv:2312.09244): the first term depends on differences only and leaves the mean open.
    """
    return smoothed(chosen - rejected - margin, label_smoothing) + centering * (chosen + rejected).square()


def smoothed(difference: Tensor, label_smoothing: float) -> Tensor:
    """-log sigmoid(difference), if a share `label_smoothing` of the labels is assumed to name the wrong answer."""
    right, wrong = F.logsigmoid(difference), F.logsigmoid(-difference)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def list_weights(lists: Tensor) -> Tensor:
    """The weight of each pair, [pairs], such that the weights of every ranked list sum to 1: 1 / (K choose 2).

    Otherwise a list of 9 answers (36 pairs) would weigh 36 times as much as a pair (InstructGPT, arXiv:2203.02155).
    `lists`: [pairs], the number of the list that each pair was made from.
    """
    _, inverse, counts = torch.unique(lists, return_inverse=True, return_counts=True)
    weights: Tensor = 1.0 / counts[inverse].float()
    return weights


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log sigmoid(beta (chosen - rejected)) (Rafailov 2023, arXiv:2305.18290), with label smoothing as in cDPO.

    `chosen`, `rejected`: [pairs], the log-ratios of the answers.
    """
    return smoothed(beta * (chosen - rejected), label_smoothing)


def ipo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """(chosen - rejected - 1 / (2 beta))^2 (Azar 2023, arXiv:2310.12036, eq. 17, where beta is called tau).

    The caller decides whether log-ratios are sums over the tokens of an answer, as in `dpo_loss`, or means per token.
    """
    # DPO continues to widen the difference of a pair that it already ranks correctly. This loss has its minimum at a
    # finite difference, so that pairs without noise in their labels are not overfitted.
    return (chosen - rejected - 1 / (2 * beta)).square()


def kto_loss(
    ratio: Tensor,
    desirable: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """weight * (1 - sigmoid(+-beta (ratio - kl))) of each answer, [answers] (Ethayarajh 2024, arXiv:2402.01306, eq. 8).

    `ratio`: log-ratio of each answer; `desirable`: bool [answers], the sign is + for desirable answers; `kl`: scalar
    without gradient, the KL of policy and reference in nats, estimated on answers that do not belong to their prompts.
    """
    # The reference point kl moves both kinds alike: raising the probability of everything is no gain. Its gradient is
    # stopped as in the paper and in TRL.
    value = beta * (ratio - kl.detach())
    utility = torch.where(desirable, torch.sigmoid(value), torch.sigmoid(-value))
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (1 - utility)
