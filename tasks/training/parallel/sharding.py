"""Weights of which each process holds a part (DTensor): their norm, their state as a whole, and the way back.

Sharding works inside the model: it swaps parameters, adds hooks, changes classes. `Shell` remembers a model as it was,
so that after training it is a plain model again.
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

EPSILON = 1e-6  # as torch's own clipping has it


class ShardedStrategy(Strategy, ABC):
    """What strategies whose masters are DTensors have in common."""

    lockstep = True
    shell: "Shell"

    def clip(self, max_norm: float) -> float:
        """As the plain one, with the squares of all parts added up."""
        gradients = [master.grad for master in self.weights.masters if master.grad is not None]
        norm = total_norm(gradients)
        factor = torch.clamp(max_norm / (norm + EPSILON), max=1.0)
        for gradient in gradients:
            local_of(gradient).mul_(factor)
        return float(norm)

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Each process takes its part."""
        with torch.no_grad():
            for name, master in zip(self.weights.names, self.weights.masters, strict=True):
                master.copy_(part_of(weights[name], master))
        self.weights.publish()

    def take_optimizers(self, optimizers: Sequence[Optimizer], states: Sequence[Any]) -> None:
        """Each process takes its part of every tensor that has the shape of its weight."""
        for optimizer, saved in zip(optimizers, states, strict=True):
            ordered = [master for group in optimizer.param_groups for master in group["params"]]
            mine = {
                index: {
                    key: part_of(value, ordered[index])
                    if isinstance(value, Tensor) and value.shape == ordered[index].shape
                    else value
                    for key, value in one.items()
                }
                for index, one in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": mine})

    def restore(self) -> None:
        """Every process holds the whole model afterwards."""
        self.shell.restore({name: processes.whole(value) for name, value in self.all_weights().items()})

    @abstractmethod
    def all_weights(self) -> dict[str, Tensor]:
        """The fp32 weights by their names in the model, those that are not trained too."""


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients together; what every process holds whole is counted once."""
    parts, wholes = list[Tensor](), list[Tensor]()
    for gradient in gradients:
        is_part = isinstance(gradient, DTensor) and any(place.is_shard() for place in gradient.placements)
        (parts if is_part else wholes).append(torch.linalg.vector_norm(local_of(gradient)).square())
    zero = torch.zeros((), device=(parts + wholes)[0].device)
    in_parts = torch.stack(parts).sum() if parts else zero.clone()
    dist.all_reduce(in_parts)
    return (in_parts + (torch.stack(wholes).sum() if wholes else zero)).sqrt()


def local_of(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this process holds, in the same memory."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """What this process holds of `full`, if `like` is kept in parts; every process must have all of `full`."""
    if isinstance(full, DTensor) or not isinstance(like, DTensor):
        return full
    on_device = full.to(like.device)
    return distribute_tensor(on_device, like.device_mesh, like.placements, src_data_rank=None)


class Pass(nn.Module):
    """One pass through the model, from a micro-batch to its loss, as a module that can be sharded."""

    def __init__(self, work: HasLoss) -> None:
        super().__init__()
        self.model, self._loss = work.model, work.loss

    def forward(self, batch: Any) -> Any:
        """The loss and the numbers; nothing for nothing."""
        return None if batch is None else self._loss(batch)


class SameWeights(Weights):
    """Masters that are the model's own parameters, for those who keep working copies by themselves."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        self.names, self._pairs = list(trained), [(parameter, parameter) for parameter in trained.values()]
        self._frozen, self._apart = [], []


class Shell:
    """A model's modules as they are now: their classes, parameters and hooks."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._model = model
        self._before = [
            (module, type(module), dict(module._parameters), _hooks(module), set(vars(module)))
            for module in model.modules()
        ]
        self._added: list[tuple[nn.Module, set[str]]] = []

    def sharded(self) -> None:
        """To be called when the model has been sharded: frees the memory of what was replaced."""
        now = set(self._model.parameters())
        for module, _, parameters, _, attributes in self._before:
            self._added.append((module, set(vars(module)) - attributes))
            for parameter in parameters.values():
                if parameter is not None and parameter not in now:
                    parameter.data = torch.empty(0, dtype=parameter.dtype)

    @contextmanager
    def without_hooks(self) -> Iterator[None]:
        """Within the block the modules have the hooks that they had before, and no others."""
        now = [(module, _hooks(module)) for module, *_ in self._before]
        self._hang([(module, hooks) for module, _, _, hooks, _ in self._before])
        try:
            yield
        finally:
            self._hang(now)

    def _hang(self, hooks: Iterable[tuple[nn.Module, Mapping[str, Any]]]) -> None:
        for module, found in hooks:
            for name, of_kind in found.items():
                setattr(module, name, of_kind.copy())

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Make the model what it was, with new parameters that hold these weights by name."""
        fresh = {old: nn.Parameter(weights[name], old.requires_grad) for old, name in self._names.items()}
        for module, names in self._added:
            for name in names:
                delattr(module, name)
        self._hang([(module, hooks) for module, _, _, hooks, _ in self._before])
        for module, kind, parameters, _, _ in self._before:
            module.__class__ = kind
            module._parameters = {name: old if old is None else fresh[old] for name, old in parameters.items()}


def _hooks(module: nn.Module) -> dict[str, Any]:
    return {name: value.copy() for name, value in vars(module).items() if name.endswith("hooks")}
