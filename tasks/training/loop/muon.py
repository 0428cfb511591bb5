"""Muon (Jordan 2024, kellerjordan.github.io/posts/muon), which orthogonalizes all matrices of one shape together.

The update equals that of torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`. A small model has many small matrices;
one batched product for all matrices of a shape takes less than half of the time of single products.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tasks.training.parallel.precision import has_fast_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as in Jordan 2024
NUM_ITERATIONS = 5
EPS = 1e-7


class Muon(Optimizer):
    """Nesterov momentum, orthogonalized and scaled to the size of AdamW's updates (arXiv:2502.16982)."""

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon updates matrices only; give other parameters to AdamW")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    transposed = parameter.shape[0] > parameter.shape[1]
                    by_shape[tuple(sorted(parameter.shape)), parameter.device].append((parameter, transposed))
            for same_shape in by_shape.values():
                self._step(same_shape, group)

    def _step(self, matrices: list[tuple[Tensor, bool]], group: dict[str, Any]) -> None:
        """Update matrices of one shape; a matrix that is taller than wide is given as (matrix, True) and transposed."""
        # torch._foreach functions update all tensors of a list in one kernel launch.
        momentum, rate = group["momentum"], group["lr"]
        parameters = [parameter for parameter, _ in matrices]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, buffers, momentum)
        pairs = zip(nesterov, matrices, strict=True)
        stack = torch.stack([one.mT if transposed else one for one, (_, transposed) in pairs])
        updates = orthogonalize(stack).to(stack.dtype)
        # An orthogonal matrix [r, c] with r <= c has elements of RMS 1 / sqrt(c). AdamW's updates have an RMS of about
        # 0.2, so this factor lets both optimizers share one learning rate and weight decay (arXiv:2502.16982).
        scale = 0.2 * max(parameters[0].shape) ** 0.5
        torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        directions = [one.mT if transposed else one for one, (_, transposed) in zip(updates, matrices, strict=True)]
        torch._foreach_add_(parameters, directions, alpha=-rate * scale)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonalize(matrices: Tensor) -> Tensor:
    """Replace the singular values of each matrix by values near 1. [count, rows, columns], rows <= columns.

    This is five steps of a Newton-Schulz iteration (Jordan 2024), for which the precision of bfloat16 is enough; the
    result has that format. Where the hardware has no native bf16, products in bf16 are emulated and many times slower
    than in fp32, so the iteration then runs in the format of `matrices`. The first division makes all singular values
    at most 1, which the iteration needs to converge.
    """
    linear, cubic, quintic = COEFFICIENTS
    result = matrices.bfloat16() if has_fast_bf16(matrices.device) else matrices
    result = result / result.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(NUM_ITERATIONS):
        # X <- a X + (b A + c A^2) X with A = X X^T: an odd polynomial, which acts on the singular values alone.
        square = result @ result.mT
        polynomial = torch.baddbmm(square, square, square, beta=cubic, alpha=quintic)
        result = torch.baddbmm(result, polynomial, result, beta=linear)
    return result
