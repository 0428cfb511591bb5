"""The number format of matrix products, and the fp32 master weights behind a 16-bit working copy.

The model holds 16-bit weights that are cast once per step; autocast would cast them at each use. The optimizer sees
fp32 masters, because an update of less than 1/256 of a weight would vanish in bf16. Gradients of micro-batches are
accumulated in fp32 for the same reason. Modules with `keep_fp32 = True` are not cast.
"""

import os
import sys
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
MIN_SPEED_UP = 1.3  # bf16 is used on a CPU when its products are at least this much faster than fp32


def choose(name: Precision, device: torch.device) -> torch.dtype:
    """The dtype for `name` on `device`; "auto" is bf16 where the hardware supports it. fp16 is refused on a CPU.

    bf16 on a CPU without it is emulated, which is much slower than fp32: that is printed, with the measured factor.
    """
    if name == "fp16" and device.type == "cpu":
        raise BadParams("precision fp16 is hundreds of times slower than fp32 on a CPU; use auto, bf16 or fp32")
    if name == "bf16" and device.type == "cpu" and not has_fast_bf16(device):
        print(
            f"warning: precision is bf16, but matrix products on this CPU are {1 / _bf16_speed_up():.1f} times slower "
            f"in bf16 than in fp32; use precision auto or fp32",
            file=sys.stderr,
            flush=True,
        )
    if name != "auto":
        return DTYPES[name]
    if has_fast_bf16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices in bf16 natively, and faster than in fp32.

    This is the only place that decides it. Code that chooses a format (precision auto, Muon, benchmarks) calls it.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _bf16_speed_up() >= MIN_SPEED_UP


@contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Within the block, fp32 products on a GPU use TF32: 10 bits of mantissa, about eight times as fast."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def deterministic(device: torch.device, enabled: bool) -> Iterator[None]:
    """Within the block, a GPU uses deterministic kernels; torch warns of operations that have none.

    On a CPU our operations are deterministic anyway. cuBLAS reads its setting before its first product, so the
    variable is set here and not removed.
    """
    settings: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill_before = settings.fill_uninitialized_memory
    if enabled and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Memory that is never read need not be equal in every run, and filling it costs time.
        settings.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        settings.fill_uninitialized_memory = fill_before
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@cache
def _bf16_speed_up() -> float:
    """How many times faster a bf16 matrix product is than an fp32 one on this CPU, measured in some milliseconds."""
    return matmul_seconds(torch.float32) / matmul_seconds(torch.bfloat16)


def matmul_seconds(dtype: torch.dtype, size: int = 512, repeats: int = 5) -> float:
    """The shortest time of `repeats` products of two square matrices on this CPU."""
    matrix = torch.ones(size, size, dtype=dtype)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - start)
    return min(times)


class Weights:
    """The trainable weights of a model: fp32 masters for the optimizer, working copies in `dtype` in the model.

    Where the two formats are equal, a master is the model's own parameter and nothing is copied.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        # named_parameters lists a shared parameter (a tied embedding) once, so it has one master.
        self.model = model
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self._frozen: list[tuple[nn.Parameter, Tensor]] = []
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []  # (parameter of the model, master)
        fp32_parameters = {p for m in model.modules() if getattr(m, "keep_fp32", False) for p in m.parameters()}
        for parameter in model.parameters():
            # Quantized weights are integers, and a checkpoint's own 16-bit weights stay as they are.
            is_fp32 = parameter.is_floating_point() and parameter.dtype == torch.float32
            original = parameter.data  # the fp32 tensor becomes the master, so it is not copied
            if is_fp32 and parameter not in fp32_parameters and dtype != torch.float32:
                parameter.data = original.to(dtype)
            if parameter.requires_grad:
                same = parameter.data is original
                self._pairs.append((parameter, parameter if same else nn.Parameter(original)))
            elif parameter.data is not original:
                self._frozen.append((parameter, original.cpu()))  # frozen originals need not occupy GPU memory
        self._copied_pairs = [(p, master) for p, master in self._pairs if p is not master]

    @property
    def masters(self) -> list[nn.Parameter]:
        """The fp32 weights, in the order of `names`."""
        return [master for _, master in self._pairs]

    def collect_gradients(self) -> None:
        """Move the gradients of one backward pass to the masters, accumulating in fp32."""
        for parameter, master in self._copied_pairs:
            if parameter.grad is not None:
                if master.grad is None:
                    master.grad = parameter.grad.to(master.dtype)
                else:
                    master.grad += parameter.grad
                # Not zero_grad: a kept 16-bit gradient would be accumulated in 16 bits by the next backward pass.
                parameter.grad = None

    def divide_gradients(self, scale: float) -> None:
        """Divide the gradients by the factor that the losses were multiplied by (fp16 loss scale)."""
        for master in self.masters:
            if master.grad is not None and scale != 1:
                master.grad /= scale

    def copy_to_model(self) -> None:
        """Copy the masters into the model, after an optimizer step or a restored checkpoint."""
        with torch.no_grad():
            for parameter, master in self._copied_pairs:
                parameter.copy_(master)

    def restore(self) -> None:
        """Put the fp32 weights back into the model, for saving."""
        for parameter, master in self._copied_pairs:
            parameter.data, parameter.grad = master.data, None
        for parameter, original in self._frozen:
            parameter.data = original.to(parameter.device)
