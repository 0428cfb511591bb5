"""Fully sharded data parallel (torch's FSDP2; arXiv:2304.11277): weights, gradients and optimizer states in parts.

A block's weights are put together just before it is used, in the precision of training, and let go behind it; the fp32
masters are never whole. What is outside of the blocks (embeddings, head) is one more part, whole during a pass. Outside
of `loss`, for evaluation and rollouts, all weights are put together.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from tasks.errors import BadParams
from tasks.training.parallel import processes
from tasks.training.parallel.sharding import Pass, SameWeights, ShardedStrategy, Shell
from tasks.training.parallel.strategies import HasLoss


class FullySharded(ShardedStrategy):
    """Every process holds 1/N of each weight and reads its share of the data."""

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device) -> None:
        if not all(parameter.is_floating_point() for parameter in work.model.parameters()):
            raise BadParams("strategy fsdp does not cut a base of few bits (adapter.base_bits): use ddp with it")
        self.work, self.shell = work, Shell(work.model)
        low = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        high = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = init_device_mesh(device.type, (processes.count(),))
        self._pass = Pass(work)
        for module in [m for m in work.model.modules() if getattr(m, "keep_fp32", False)]:
            fully_shard(module, mesh=mesh, mp_policy=high)
        for block in blocks(work.model):
            fully_shard(block, mesh=mesh, mp_policy=low)
        fully_shard(self._pass, mesh=mesh, mp_policy=low)
        for part in self._parts():
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        self.shell.sharded()
        self._all = dict(work.model.named_parameters())
        self._pass(None)  # the first call tells the parts which of them is the outermost
        self._take_apart()
        self.weights = SameWeights(self._all)  # FSDP casts when it puts them together, and adds up gradients in fp32

    def _parts(self) -> list[FSDPModule]:
        return [module for module in self._pass.modules() if isinstance(module, FSDPModule)]

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The work's loss, within the hooks that put the weights together."""
        found: tuple[Tensor, Mapping[str, float | Tensor]] = self._pass(batch)
        return found

    def add_up_gradients(self) -> None:
        """Nothing: the backward pass has done it. A weight that was not used has a gradient of zero."""
        for master in self.weights.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All weights put together, in the precision of training; no process waits for another inside."""
        for part in self._parts():
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in self._parts():
                part.reshard()
                part.set_reshard_after_forward(not isinstance(part, Pass), recurse=False)

    def all_weights(self) -> dict[str, Tensor]:
        """As they are kept between two passes."""
        self._take_apart()
        return dict(self._all)

    def _take_apart(self) -> None:
        """Let go of what is whole: it would not see that the masters move."""
        for part in self._parts():
            part.reshard()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that stand in lists and have weights: a Transformer's blocks."""
    found: list[nn.Module] = []
    for name, child in model.named_children():
        del name
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += blocks(child)
    return found


def share(work: HasLoss, dtype: torch.dtype, device: torch.device) -> FullySharded:
    """`work.model` in parts."""
    return FullySharded(work, dtype, device)
