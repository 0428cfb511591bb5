"""Dials of stages that only read rows and take losses of them: torch.compile and products in 8 bits, both off."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field
from torch import nn

from tasks.training.language import compilation, float8
from tasks.training.loop.training_loop import LoopParams, chosen_device


class AcceleratedParams(LoopParams, frozen=True):
    """The loop's dials, and how to go faster where the hardware can."""

    compile: compilation.Mode = Field("off", description="auto = where the run is long enough to pay for it")
    fp8: bool = Field(False, description="linear maps in 8 bits, on Hopper and newer")


@contextmanager
def accelerated(model: nn.Module, params: AcceleratedParams) -> Iterator[None]:
    """Within the block `model` goes as `params` say. Raises BadParams where it cannot."""
    device = chosen_device(params.device)
    with float8.products(model, params.fp8, device), compilation.compiled(model, params.compile, params.steps, device):
        yield
