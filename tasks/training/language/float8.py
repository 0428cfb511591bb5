"""FP8 training (arXiv:2209.05433): linear maps are multiplied in 8 bits, e4m3 forward and e5m2 for gradients.

e4m3 has more precision, e5m2 more range, which gradients need. Each tensor has one scale, so that its largest number
becomes the largest of the format ("dynamic scaling"). Only linear maps in the blocks are changed. Attention, norms,
embeddings and the head keep their precision, and so do the weights and their fp32 masters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tasks.errors import BadParams

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # torch._scaled_mm needs sides that are multiples of this number
MIN_CAPABILITY = (8, 9)  # compute capability: Ada, Hopper and newer
MIN_AMAX = 1e-12  # a tensor of zeros has a finite scale


@contextmanager
def float8_training(model: nn.Module, enabled: bool, device: torch.device) -> Iterator[None]:
    """Multiply the linear maps in the blocks of `model` in 8 bits within the block of `with`, if `enabled`.

    Raises BadParams if the device or the model does not support it.
    """
    if not enabled:
        yield
        return
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        raise BadParams(
            "fp8 needs a GPU with compute capability 8.9 or newer (Ada, Hopper, Blackwell), and this machine has none. "
            "Set fp8: false."
        )
    with converted_to_float8(model):
        yield


@contextmanager
def converted_to_float8(model: nn.Module) -> Iterator[None]:
    """As `float8_training`, on any device: torch emulates the products, slowly, where the hardware has none."""
    linears = [module for name, module in model.named_modules() if "layers." in name and _is_supported(module)]
    if not linears:
        raise BadParams(
            f"fp8: {type(model).__name__} has no linear maps (torch.nn.Linear) in its blocks whose sides are multiples "
            f"of {MULTIPLE}. Set fp8: false, or choose another model."
        )
    try:
        # Only the class is exchanged: parameters stay the same objects, for which optimizers already keep state.
        for module in linears:
            module.__class__ = Float8Linear
        yield
    finally:
        for module in linears:
            module.__class__ = nn.Linear


class Float8Linear(nn.Linear):
    """A linear map that multiplies in 8 bits: [..., in] -> [..., out]."""

    def forward(self, input: Tensor) -> Tensor:
        """An input whose number of rows is not a multiple of MULTIPLE is multiplied in its own precision."""
        rows = input.reshape(-1, self.in_features)
        if len(rows) % MULTIPLE:
            return super().forward(input)
        product: Tensor = _Float8Matmul.apply(rows, self.weight)  # type: ignore[no-untyped-call]
        output = product.view(*input.shape[:-1], self.out_features)
        return output if self.bias is None else output + self.bias


class _Float8Matmul(torch.autograd.Function):
    """rows [n, in] @ weight [out, in]^T -> [n, out]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        rows8, rows_scale = _quantize(rows, FORWARD)
        weight8, weight_scale = _quantize(weight, FORWARD)
        ctx.save_for_backward(rows8, rows_scale, weight8, weight_scale)
        # Fast accumulation (fewer bits in the tensor cores' sums) is precise enough forward, but not for gradients.
        return _matmul(rows8, rows_scale, weight8.T, weight_scale, rows.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        rows8, rows_scale, weight8, weight_scale = ctx.saved_tensors
        dtype = gradients[0].dtype
        gradient8, scale = _quantize(gradients[0], BACKWARD)
        rows_gradient = _matmul(gradient8, scale, _column_major(weight8), weight_scale, dtype)
        weight_gradient = _matmul(gradient8.T.contiguous(), scale, _column_major(rows8), rows_scale, dtype)
        return rows_gradient, weight_gradient


def _quantize(tensor: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`tensor` in 8 bits, and the inverse of its scale (a scalar): their product is about `tensor` again."""
    amax = tensor.detach().abs().amax().float().clamp_min(MIN_AMAX)
    max_value = torch.finfo(dtype).max
    scale = max_value / amax
    # Rounding in bf16 can exceed the largest number of the format, and a cast to FP8 does not saturate: it gives NaN.
    return (tensor * scale.to(tensor.dtype)).clamp(-max_value, max_value).to(dtype), 1 / scale


def _matmul(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool = False) -> Tensor:
    """a [n, k], row-major, @ b [k, m], column-major: cuBLAS has FP8 products for this layout alone."""
    return torch._scaled_mm(a, b, a_scale, b_scale, out_dtype=dtype, use_fast_accum=fast)


def _column_major(matrix: Tensor) -> Tensor:
    """The same matrix with the numbers of a column next to each other in memory."""
    return matrix.T.contiguous().T


def _is_supported(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not any(side % MULTIPLE for side in module.weight.shape)
