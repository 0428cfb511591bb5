"""The processes that train together (torch.distributed, started by launch.py): their number, sums over all of them.

Functions that communicate are collective: every process must call them, in the same order. A process that skips one
leaves the others waiting for ever. With one process they communicate nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor


def count() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process; only process 0 writes files and shows progress."""
    return dist.get_rank() if count() > 1 else 0


@contextmanager
def on_device(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Use `model` on `device` within the block. Several processes move it back, because they may shard it later."""
    previous = next(model.parameters()).device
    if previous != device:
        model.to(device)
    try:
        yield
    finally:
        if count() > 1 and previous != device:
            model.to(previous)


def all_reduce_gradients(parameters: Sequence[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; a missing gradient counts as zero.

    All gradients are sent as one flat tensor: one large message is faster than many small ones.
    """
    if count() == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:  # this process had no micro-batch, or none that used this weight
            parameter.grad = torch.zeros_like(parameter)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters if parameter.grad is not None])
    dist.all_reduce(flat)
    start = 0
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def all_reduce_sum(numbers: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Each number summed over all processes; a name that a process lacks counts as zero there."""
    local = {name: float(value) for name, value in numbers.items()}
    if count() == 1:
        return local
    by_process: list[dict[str, float]] = [{} for _ in range(count())]
    dist.all_gather_object(by_process, local)
    # Python's sum from rank 0 upward gives the same float everywhere; an all-reduce may add in another order.
    names = dict.fromkeys(name for one in by_process for name in one)
    return {name: sum(one.get(name, 0.0) for one in by_process) for name in names}


def any_rank(*local_flags: bool) -> list[bool]:
    """For each flag, whether it is set in any process. All processes must call it. The flags stay on the CPU."""
    if count() == 1:
        return list(local_flags)
    flags = torch.tensor(local_flags, dtype=torch.int32)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def full_tensor(tensor: Tensor) -> Tensor:
    """A copy of `tensor`, gathered where it is sharded (a DTensor). All processes must call it."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor().detach()
        return full.clone()
    return tensor.detach().clone()


def gather_state(state: Any) -> Any:
    """`state` with every DTensor gathered on the CPU of process 0; the other processes get empty tensors instead."""
    if isinstance(state, DTensor):
        # One tensor at a time, and freed at once elsewhere: no device needs room for all of the state.
        full = state.full_tensor().detach()
        return full.cpu() if rank() == 0 else torch.empty(0)
    if isinstance(state, Mapping):
        return {key: gather_state(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(gather_state(value) for value in state)
    return state
