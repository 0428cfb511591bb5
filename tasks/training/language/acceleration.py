"""Params that accelerate pretrain and sft: torch.compile and FP8. Both are off by default."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field
from torch import nn

from tasks.training.language import compilation, float8
from tasks.training.loop.params import LoopParams, resolve_device


class AcceleratedParams(LoopParams, frozen=True):
    """The params of the training loop, and how to accelerate the model."""

    compile: compilation.Mode = Field(
        "off", description="Whether torch.compile compiles the blocks of the model: off, on, or auto (on if the run "
        "has at least 500 steps on a GPU, 300 on a CPU, and there is a C++ compiler).",
    )  # fmt: skip
    fp8: bool = Field(
        False, description="Whether linear maps are multiplied in 8-bit floating point. This needs a GPU with compute "
        "capability 8.9 (Ada, Hopper) or newer.",
    )  # fmt: skip

    def torch_cache(self) -> Path | None:
        """Where the compiler for a CPU keeps its results; None if the blocks are not compiled for one."""
        device = resolve_device(self.device)
        is_used = device.type == "cpu" and compilation.should_compile(self.compile, self.steps, device)
        return compilation.cache_folder() if is_used else None


@contextmanager
def accelerated(model: nn.Module, params: AcceleratedParams) -> Iterator[None]:
    """Accelerate `model` within the block as `params` say. Raises BadParams if this machine cannot."""
    device = resolve_device(params.device)
    with (
        float8.float8_training(model, params.fp8, device),
        compilation.compiled(model, params.compile, params.steps, device),
    ):
        yield
