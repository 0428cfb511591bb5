"""ZeRO stage 3 by DeepSpeed (arXiv:1910.02054): optimizer states, gradients and weights in parts."""

import torch

from tasks.training.parallel.strategies import HasLoss
from tasks.training.parallel.zero import Zero


def share(work: HasLoss, dtype: torch.dtype, device: torch.device) -> Zero:
    """`work.model` under DeepSpeed. Raises BadParams where that is not installed."""
    return Zero(work, dtype, device, stage=3)
