"""Products of linear maps in 8 bits, on GPUs that have them (arXiv:2209.05433): e4m3 forward, e5m2 for gradients.

Each tensor is scaled as a whole, so that its largest number is the largest of the format. Linear maps inside the blocks
only; attention, norms, embeddings and head stay as they are, and so do weights and their fp32 masters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import BadParams

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # what every side of a product must be a multiple of
ENOUGH = (8, 9)  # compute capability: Ada, Hopper and newer
SMALLEST = 1e-12


@contextmanager
def products(model: nn.Module, wanted: bool, device: torch.device) -> Iterator[None]:
    """Within the block the linear maps of the model's blocks multiply in 8 bits. Raises BadParams where they cannot."""
    if not wanted:
        yield
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < ENOUGH:
        raise BadParams("fp8 needs a GPU of compute capability 8.9 or more (Hopper, Ada, Blackwell); set fp8: false")
    with swapped(model):
        yield


@contextmanager
def swapped(model: nn.Module) -> Iterator[None]:
    """As `products`, on any device: slow emulation where the hardware has no such products."""
    maps = [module for name, module in model.named_modules() if "layers." in name and _fits(module)]
    if not maps:
        raise BadParams(f"fp8: {type(model).__name__} has no linear maps in its blocks with sides that 16 divides")
    try:
        for module in maps:
            module.__class__ = Float8Linear
        yield
    finally:
        for module in maps:
            module.__class__ = nn.Linear


class Float8Linear(nn.Linear):
    """A linear map that multiplies in 8 bits: [..., in] -> [..., out]."""

    def forward(self, input: Tensor) -> Tensor:
        """Rows whose number 16 does not divide go the usual way."""
        rows = input.reshape(-1, self.in_features)
        if len(rows) % MULTIPLE:
            return super().forward(input)
        product: Tensor = _Product.apply(rows, self.weight)  # type: ignore[no-untyped-call]
        shaped = product.view(*input.shape[:-1], self.out_features)
        return shaped if self.bias is None else shaped + self.bias


class _Product(torch.autograd.Function):
    """rows [n, in] @ weight [out, in]^T."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        small_rows, rows_scale = _small(rows, FORWARD)
        small_weight, weight_scale = _small(weight, FORWARD)
        ctx.save_for_backward(small_rows, rows_scale, small_weight, weight_scale)
        return _multiply(small_rows, rows_scale, small_weight.T, weight_scale, rows.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows, rows_scale, weight, weight_scale = ctx.saved_tensors
        dtype = gradients[0].dtype
        small, scale = _small(gradients[0], BACKWARD)
        of_rows = _multiply(small, scale, _columns(weight), weight_scale, dtype)
        of_weight = _multiply(small.T.contiguous(), scale, _columns(rows), rows_scale, dtype)
        return of_rows, of_weight


def _small(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`tensor` in 8 bits, and the number that it is to be multiplied by to be itself again."""
    largest = tensor.detach().abs().amax().float().clamp_min(SMALLEST)
    scale = torch.finfo(dtype).max / largest
    return (tensor * scale.to(tensor.dtype)).clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype), 1 / scale


def _multiply(
    left: Tensor, left_scale: Tensor, right: Tensor, right_scale: Tensor, dtype: torch.dtype, fast: bool = False
) -> Tensor:
    return torch._scaled_mm(left, right, left_scale, right_scale, out_dtype=dtype, use_fast_accum=fast)


def _columns(matrix: Tensor) -> Tensor:
    """The same numbers laid out column by column, as the right side of a product must be."""
    return matrix.T.contiguous().T


def _fits(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not any(side % MULTIPLE for side in module.weight.shape)
