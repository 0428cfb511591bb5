"""Sharded weights (DTensor): their norm, loading and gathering them, and restoring the plain model afterwards.

A DTensor is a tensor whose parts lie in several processes. Its placement is Shard(dim), each process holds 1/N of that
dimension, or Replicate(), each process holds all of it. Operations on DTensors communicate where they must; where that
is not wanted, the code works on the local part (`local_of`).

Sharding changes the model itself: it replaces parameters, adds hooks and changes classes. `ModelSnapshot` records the
model before, so that it is a plain model again after training.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from tasks.training.parallel import processes
from tasks.training.parallel.precision import Weights
from tasks.training.parallel.strategies import HasLoss, Strategy

EPSILON = 1e-6  # the value of torch.nn.utils.clip_grad_norm_


class ShardedStrategy(Strategy, ABC):
    """Base class of the strategies whose masters are DTensors."""

    lockstep = True
    snapshot: "ModelSnapshot"

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to the 2-norm `max_norm`; the squared norms of shards are summed over processes."""
        gradients = [master.grad for master in self.weights.masters if master.grad is not None]
        norm = total_norm(gradients)
        # Every process computes the same factor and scales its own shards; nothing is sent.
        factor = torch.clamp(max_norm / (norm + EPSILON), max=1.0)
        for gradient in gradients:
            local_of(gradient).mul_(factor)
        return float(norm)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights; each process takes its shard."""
        with torch.no_grad():
            for name, master in zip(self.weights.names, self.weights.masters, strict=True):
                master.copy_(shard_of(weights[name], master))
        self.weights.copy_to_model()

    def load_optimizer_states(self, optimizers: Sequence[Optimizer], states: Sequence[Any]) -> None:
        """Restore the states; of each tensor that has the shape of its weight, a process takes its shard."""
        for optimizer, saved in zip(optimizers, states, strict=True):
            # A state dict numbers weights in the order of the groups.
            ordered = [master for group in optimizer.param_groups for master in group["params"]]
            local_state = {
                index: {
                    # Moments have the shape of their weight and are sharded like it; a step counter is a scalar.
                    key: shard_of(value, ordered[index])
                    if isinstance(value, Tensor) and value.shape == ordered[index].shape
                    else value
                    for key, value in one.items()
                }
                for index, one in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": local_state})

    def restore(self) -> None:
        """Leave a plain model with its full fp32 weights in every process."""
        self.snapshot.restore({name: processes.full_tensor(value) for name, value in self.all_weights().items()})

    @abstractmethod
    def all_weights(self) -> dict[str, Tensor]:
        """The fp32 weights by their names in the model, including those that are not trained."""


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients together. A replicated gradient is counted once, not once per process."""
    sharded, replicated = list[Tensor](), list[Tensor]()
    for gradient in gradients:
        is_sharded = isinstance(gradient, DTensor) and any(place.is_shard() for place in gradient.placements)
        (sharded if is_sharded else replicated).append(torch.linalg.vector_norm(local_of(gradient)).square())
    # Shards are disjoint, so their squares are summed over processes. Replicated gradients are the same everywhere: in
    # that sum they would count N times.
    zero = torch.zeros((), device=(sharded + replicated)[0].device)
    squares = torch.stack(sharded).sum() if sharded else zero.clone()
    dist.all_reduce(squares)
    return (squares + (torch.stack(replicated).sum() if replicated else zero)).sqrt()


def local_of(tensor: Tensor) -> Tensor:
    """The shard of `tensor` that this process holds; it shares memory with `tensor`."""
    # Without no_grad, autograd would record the conversion and refuse changes in place.
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_of(full: Tensor, like: Tensor) -> Tensor:
    """`full`, sharded as `like` is. Every process must hold all of `full`, so nothing is sent."""
    if isinstance(full, DTensor) or not isinstance(like, DTensor):
        return full
    # src_data_rank=None: each process cuts its part out of its own copy. The default broadcasts rank 0's first.
    on_device = full.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


class LossModule(nn.Module):
    """A pass from a micro-batch to its loss as one module, because FSDP and DeepSpeed wrap modules."""

    def __init__(self, work: HasLoss) -> None:
        super().__init__()
        self.model, self._loss = work.model, work.loss

    def forward(self, batch: Any) -> Any:
        """The loss and the numbers for the step log; None for no batch."""
        return None if batch is None else self._loss(batch)


class InPlaceWeights(Weights):
    """Masters that are the model's own parameters, for libraries that manage working copies themselves."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        # `Weights.__init__` would cast the model, which the library does itself.
        self.names, self._pairs = list(trained), [(parameter, parameter) for parameter in trained.values()]
        self._frozen, self._copied_pairs = [], []


class ModelSnapshot:
    """The classes, parameters, hooks and attributes of the modules of a model, as they are at creation.

    Copying the model instead would need its memory a second time. Only references are kept here, and those of replaced
    parameters are emptied (`release_replaced`).
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._model = model
        self._before = [
            (module, type(module), dict(module._parameters), _hooks(module), set(vars(module)))
            for module in model.modules()
        ]
        self._added_attributes: list[tuple[nn.Module, set[str]]] = []

    def release_replaced(self) -> None:
        """Called once the model is sharded: free the memory of the parameters that were replaced."""
        current = set(self._model.parameters())
        for module, _, parameters, _, attributes in self._before:
            self._added_attributes.append((module, set(vars(module)) - attributes))
            for parameter in parameters.values():
                # The old parameters stay as keys of `_names`, so without this their memory would stay, too.
                if parameter is not None and parameter not in current:
                    parameter.data = torch.empty(0, dtype=parameter.dtype)

    @contextmanager
    def without_hooks(self) -> Iterator[None]:
        """Within the block, the modules have only the hooks that they had at creation."""
        current = [(module, _hooks(module)) for module, *_ in self._before]
        self._set_hooks([(module, hooks) for module, _, _, hooks, _ in self._before])
        try:
            yield
        finally:
            self._set_hooks(current)

    def _set_hooks(self, hooks: Iterable[tuple[nn.Module, Mapping[str, Any]]]) -> None:
        for module, hooks_by_name in hooks:
            for name, value in hooks_by_name.items():
                setattr(module, name, value.copy())  # a copy: a hook that is added later must not enter the snapshot

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Undo all changes; new parameters hold `weights`, given by name.

        Shared parameters (tied embeddings) stay shared, because parameters are mapped one to one.
        """
        fresh = {old: nn.Parameter(weights[name], old.requires_grad) for old, name in self._names.items()}
        for module, names in self._added_attributes:
            for name in names:
                delattr(module, name)
        self._set_hooks([(module, hooks) for module, _, _, hooks, _ in self._before])
        for module, kind, parameters, _, _ in self._before:
            module.__class__ = kind  # FSDP derives a class for each module that it wraps
            module._parameters = {name: old if old is None else fresh[old] for name, old in parameters.items()}


def _hooks(module: nn.Module) -> dict[str, Any]:
    return {name: value.copy() for name, value in vars(module).items() if name.endswith("hooks")}
