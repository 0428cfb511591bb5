"""Data parallel: every process holds all weights and reads its share of each step; gradients are summed."""

import torch

from tasks.training.parallel.strategies import HasLoss, Strategy


def share(work: HasLoss, dtype: torch.dtype, device: torch.device) -> Strategy:
    """The plain strategy, which is data parallel already."""
    return Strategy(work, dtype, device)
