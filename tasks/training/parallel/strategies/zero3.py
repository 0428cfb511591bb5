"""ZeRO stage 3 by DeepSpeed (arXiv:1910.02054): optimizer states, gradients and weights are sharded."""

import torch

from tasks.training.parallel.strategies import HasLoss
from tasks.training.parallel.zero import Zero


def share(work: HasLoss, dtype: torch.dtype, device: torch.device) -> Zero:
    """`work.model` in a DeepSpeed engine. Raises BadParams where DeepSpeed is not installed."""
    return Zero(work, dtype, device, stage=3)
