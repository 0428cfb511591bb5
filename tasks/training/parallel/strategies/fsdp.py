"""Fully sharded data parallel (torch's FSDP2; arXiv:2304.11277): weights, gradients and optimizer states are sharded.

The weights of a block are gathered just before it runs, in the precision of training, and freed after it; the fp32
masters always stay sharded. What is outside of the blocks (embeddings, head) is one more unit, gathered during a pass.
Outside of `loss`, for evaluation and rollouts, all weights are gathered (`unsharded`).

A unit gathers its weights in a hook of the forward pass of its module, so every pass must go through `self._pass`: a
direct call of the model would meet shards. That is why the loss of the work is wrapped as a module (LossModule).
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
from tasks.training.parallel.sharding import InPlaceWeights, LossModule, ModelSnapshot, ShardedStrategy
from tasks.training.parallel.strategies import HasLoss


class FullySharded(ShardedStrategy):
    """Every process stores 1/N of each weight and reads its share of the data."""

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device) -> None:
        if not all(parameter.is_floating_point() for parameter in work.model.parameters()):
            raise BadParams("strategy fsdp cannot shard a quantized base (adapter.base_bits); use ddp")
        self.work, self.snapshot = work, ModelSnapshot(work.model)
        # cast_forward_inputs=False: the model casts its inputs where it needs to, as in every other strategy.
        low = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        high = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = init_device_mesh(device.type, (processes.count(),))
        self._pass = LossModule(work)
        # Order matters: an inner unit must be wrapped before the unit that contains it.
        for module in [m for m in work.model.modules() if getattr(m, "keep_fp32", False)]:
            fully_shard(module, mesh=mesh, mp_policy=high)
        for block in blocks(work.model):
            fully_shard(block, mesh=mesh, mp_policy=low)
        fully_shard(self._pass, mesh=mesh, mp_policy=low)
        # FSDP averages gradients over processes; the shares of `local_batches` need their sum.
        for unit in self._units():
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        self.snapshot.release_replaced()
        self._all = dict(work.model.named_parameters())
        self._pass(None)  # FSDP finds its root unit at the first call, and `unsharded` may come before any loss
        self._reshard()
        self.weights = InPlaceWeights(self._all)  # FSDP casts when it gathers, and reduces gradients in fp32

    def _units(self) -> list[FSDPModule]:
        return [module for module in self._pass.modules() if isinstance(module, FSDPModule)]

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss of the work, computed inside the hooks that gather the weights."""
        result: tuple[Tensor, Mapping[str, float | Tensor]] = self._pass(batch)
        return result

    def all_reduce_gradients(self) -> None:
        """Only fill gaps: the backward pass has reduced the gradients, and a weight that was not used gets zero."""
        for master in self.weights.masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Gather all weights in the precision of training. No process waits for another one within the block."""
        # A block normally frees its weights after its forward pass. Generation calls each block once per token, and
        # processes generate different numbers of tokens, so nothing may be gathered within the block.
        for unit in self._units():
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        try:
            yield
        finally:
            for unit in self._units():
                unit.reshard()
                # The outermost unit keeps its weights until the backward pass, which needs them first.
                unit.set_reshard_after_forward(not isinstance(unit, LossModule), recurse=False)

    def all_weights(self) -> dict[str, Tensor]:
        """The sharded weights, as they are stored between two passes."""
        self._reshard()
        return dict(self._all)

    def _reshard(self) -> None:
        """Free gathered weights: they would become stale when the optimizer updates the shards."""
        for unit in self._units():
            unit.reshard()


def blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost modules of module lists that have weights: the blocks of a Transformer."""
    result: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            result += [block for block in child if any(True for _ in block.parameters())]
        else:
            result += blocks(child)
    return result


def share(work: HasLoss, dtype: torch.dtype, device: torch.device) -> FullySharded:
    """`work.model`, sharded."""
    return FullySharded(work, dtype, device)
