"""How several processes share one run. Each strategy is one file with `share(work, dtype, device) -> Strategy`."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, Self

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks import catalog
from tasks.training.parallel import processes
from tasks.training.parallel.precision import Weights

ENDPOINT = "PET_RDZV_ENDPOINT"  # the variable that torchrun itself reads


class Launch(BaseModel, frozen=True, extra="forbid"):
    """`launch: {processes: 2, strategy: fsdp}`: how many processes train a stage together, and how they share it."""

    processes: int = Field(1, ge=1, description="Number of processes on each node; torchrun starts them.")
    nodes: int = Field(1, ge=1, description="Number of machines; all of them see the same data and checkpoints.")
    strategy: str = Field("ddp", description="How processes share the model: a file of parallel/strategies/.")
    rendezvous: str | None = Field(
        None,
        description="host:port of the first node, where all nodes meet, if they are started by hand; null reads the "
        f"variable {ENDPOINT}. Without both, `engine: ray` takes nodes of the cluster.",
    )

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
        names = catalog.names(__name__)
        if self.strategy not in names:
            raise ValueError(f"no strategy {self.strategy!r}; {catalog.suggest(self.strategy, names)}")
        return self

    @property
    def count(self) -> int:
        """The number of processes on all nodes together."""
        return self.processes * self.nodes


class HasLoss(Protocol):
    """The work of a stage, as far as a strategy knows it."""

    model: nn.Module

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean loss over a micro-batch, and numbers for the step log."""
        ...


class Strategy:
    """The interface between the loop and a strategy, and the plain case of it.

    Here every process holds all weights and reads its share of the micro-batches (data parallel).
    """

    _has_warned = False
    lockstep = False  # whether all processes must make every pass through the model at the same time

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device) -> None:
        self.work = work
        work.model.to(device)
        self.weights = Weights(work.model, dtype)

    @property
    def data_shard(self) -> tuple[int, int]:
        """(index, count): which share of the data this process reads."""
        return processes.rank(), processes.count()

    def register(self, optimizers: Sequence[Optimizer]) -> None:
        """Called once with the optimizers of the run, before they are used."""

    def local_batches(self, batches: Sequence[Any]) -> list[tuple[Any, float]]:
        """The micro-batches of this process, each with its share of the step's weight.

        In lockstep, a process with fewer micro-batches repeats the first one with share 0: a process that skipped a
        pass would leave the others waiting in a collective operation.
        """
        (rank, count), total = self.data_shard, sum(batch.weight for batch in batches)
        if rank == 0 and len(batches) < count and not self._has_warned:
            self._has_warned = True
            print(
                f"warning: a step has {len(batches)} micro-batches for {count} processes, so some processes are idle. "
                f"Lower micro_batch_size.",
                file=sys.stderr,
                flush=True,
            )
        shares = [(batch, batch.weight / total) for batch in batches[rank::count]]
        # The largest number of micro-batches of any process, ceil(len / count), less those of this one.
        missing = -(-len(batches) // count) - len(shares) if self.lockstep else 0
        return shares + [(batches[0], 0.0)] * missing

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss of the work on one micro-batch."""
        return self.work.loss(batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the step."""
        # backward adds to parameter.grad; the masters collect it after every pass, because they accumulate in fp32.
        loss.backward()
        self.weights.collect_gradients()

    def all_reduce_gradients(self) -> None:
        """Sum each gradient over all processes."""
        processes.all_reduce_gradients(self.weights.masters)

    def all_reduce_sum(self, numbers: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Sum the numbers of this process's micro-batches, weighted by share, over all processes."""
        return processes.all_reduce_sum(numbers)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to the 2-norm `max_norm` where it is exceeded. Returns the norm before."""
        return float(nn.utils.clip_grad_norm_(self.weights.masters, max_norm))

    def update(self, optimizers: Sequence[Optimizer]) -> None:
        """Take an optimizer step."""
        for optimizer in optimizers:
            optimizer.step()
        self.weights.copy_to_model()

    def zero_grad(self, optimizers: Sequence[Optimizer]) -> None:
        """Clear the gradients for the next step, also those of a step that was skipped."""
        for optimizer in optimizers:
            optimizer.zero_grad()

    @contextmanager
    def unsharded(self) -> Iterator[None]:
        """Within the block, the model can be used outside of `loss`, by each process on its `data_shard`."""
        yield

    def state(self, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
        """Weights by name and the states of the optimizers; the loop gathers tensors that are sharded."""
        named = zip(self.weights.names, self.weights.masters, strict=True)
        return {"weights": dict(named), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}

    def clone_weights(self) -> dict[str, Tensor]:
        """A copy of the weights, for a later `load_weights`."""
        named = zip(self.weights.names, self.weights.masters, strict=True)
        return {name: master.detach().clone() for name, master in named}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights, by full tensors or by tensors sharded as in this strategy."""
        with torch.no_grad():
            for name, master in zip(self.weights.names, self.weights.masters, strict=True):
                master.copy_(weights[name])
        self.weights.copy_to_model()

    def load_optimizer_states(self, optimizers: Sequence[Optimizer], states: Sequence[Any]) -> None:
        """Restore the states of the optimizers that `state` returned."""
        for optimizer, saved in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(saved)

    def restore(self) -> None:
        """Leave a plain model with its full fp32 weights in every process."""
        self.weights.restore()


def create(launch: Launch, work: HasLoss, dtype: torch.dtype, device: torch.device) -> Strategy:
    """The strategy that `launch` names, with `work.model` prepared for it; the plain one for a single process."""
    if processes.count() == 1:
        return Strategy(work, dtype, device)
    strategy: Strategy = catalog.find(__name__, launch.strategy).share(work, dtype, device)
    return strategy
