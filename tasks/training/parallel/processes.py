"""One process or many: which one this is, and sums over all of them (torch.distributed, where launch.py began it)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first (0) alone writes files and shows progress."""
    return dist.get_rank() if count() > 1 else 0


def add_up_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace each gradient by the sum over all processes; one that has none adds zero."""
    if count() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None])
    dist.all_reduce(flat)
    start = 0
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def add_up(numbers: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Each number summed over all processes. The names must be the same everywhere, or missing."""
    plain = {name: float(value) for name, value in numbers.items()}
    if count() == 1:
        return plain
    everywhere: list[dict[str, float]] = [{} for _ in range(count())]
    dist.all_gather_object(everywhere, plain)
    names = dict.fromkeys(name for found in everywhere for name in found)
    return {name: sum(found.get(name, 0.0) for found in everywhere) for name in names}


def any_of(*here: bool) -> list[bool]:
    """For each flag whether it is set in any of the processes; all of them must ask. Never waits for a GPU."""
    if count() == 1:
        return list(here)
    flags = torch.tensor(here, dtype=torch.int32)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def whole(tensor: Tensor) -> Tensor:
    """A copy of `tensor`, put together where each process holds a part of it; all of them must ask."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor().detach()
        return full.clone()
    return tensor.detach().clone()


def put_together(state: Any) -> Any:
    """`state` with every DTensor in it whole, on the CPU, in the first process; elsewhere such a place is empty."""
    if isinstance(state, DTensor):
        full = state.full_tensor().detach()
        return full.cpu() if rank() == 0 else torch.empty(0)
    if isinstance(state, Mapping):
        return {key: put_together(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(put_together(value) for value in state)
    return state
