"""Which number format the matrix products run in, and the fp32 weights that stand behind a 16-bit working copy.

The model itself holds 16-bit weights, cast once per step instead of once per use as autocast does; the optimizer sees
fp32 masters, and gradients of all micro-batches are added up in fp32. Modules with `keep_fp32 = True` stay as they are.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.errors import BadParams

Precision = Literal["auto", "bf16", "fp16", "fp32"]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
WORTH_IT = 1.3  # bf16 is taken on a CPU when its products are at least this much faster


def choose(name: Precision, device: torch.device) -> torch.dtype:
    """The dtype for `name` on `device`; "auto" is bf16 where the hardware has it. fp16 is refused on a CPU."""
    if name == "fp16" and device.type == "cpu":
        raise BadParams("precision fp16 is hundreds of times slower than fp32 on a CPU; use auto, bf16 or fp32")
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if _cpu_speed_up() >= WORTH_IT else torch.float32


@contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Within the block fp32 products on a GPU take TF32: 10 bits of mantissa, eight times as fast."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def exact(device: torch.device, wanted: bool) -> Iterator[None]:
    """Within the block a GPU takes kernels that give the same bytes every time, and warns of those that have no such.

    On a CPU ours do anyway. cuBLAS wants to know before its first product.
    """
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = settings.fill_uninitialized_memory
    if wanted and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        settings.fill_uninitialized_memory = False  # what nobody reads need not be the same
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = filling
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@cache
def _cpu_speed_up() -> float:
    """How many times faster a bf16 matrix product is than an fp32 one on this CPU. Takes a few milliseconds."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return 0.0
    return product_seconds(torch.float32) / product_seconds(torch.bfloat16)


def product_seconds(dtype: torch.dtype, size: int = 512, repeats: int = 5) -> float:
    """The least of the times that a product of two square matrices took on this CPU."""
    matrix = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return min(times)


class Weights:
    """The trainable weights of a model: fp32 masters for the optimizer, a copy in `dtype` inside the model."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model = model
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._frozen: list[tuple[nn.Parameter, Tensor]] = []
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # (in the model, master); the same where fp32
        kept = {p for m in model.modules() if getattr(m, "keep_fp32", False) for p in m.parameters()}
        for parameter in model.parameters():
            low = parameter.is_floating_point() and parameter.dtype == torch.float32 and parameter not in kept
            original = parameter.data
            if low and dtype != torch.float32:
                parameter.data = original.to(dtype)
            if parameter.requires_grad:
                same = parameter.data is original
                self._pairs.append((parameter, parameter if same else nn.Parameter(original)))
            elif parameter.data is not original:
                self._frozen.append((parameter, original.cpu()))  # a GPU needs its room
        self._apart = [(p, master) for p, master in self._pairs if p is not master]

    @property
    def masters(self) -> list[nn.Parameter]:
        """The fp32 weights, in the order of `names`."""
        return [master for _, master in self._pairs]

    def collect_gradients(self) -> None:
        """Move the gradients of one backward pass to the masters, adding in fp32."""
        for parameter, master in self._apart:
            if parameter.grad is not None:
                if master.grad is None:
                    master.grad = parameter.grad.to(master.dtype)
                else:
                    master.grad += parameter.grad
                parameter.grad = None

    def divide_gradients(self, scale: float) -> None:
        """Undo the scale that the losses were multiplied by."""
        for master in self.masters:
            if master.grad is not None and scale != 1:
                master.grad /= scale

    def publish(self) -> None:
        """Copy the masters into the model, after an optimizer step or a restored checkpoint."""
        with torch.no_grad():
            for parameter, master in self._apart:
                parameter.copy_(master)

    def restore(self) -> None:
        """Give the model its fp32 weights back: what is saved in the end."""
        for parameter, master in self._apart:
            parameter.data, parameter.grad = master.data, None
        for parameter, original in self._frozen:
            parameter.data = original.to(parameter.device)
