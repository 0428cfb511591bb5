"""How several processes share one run, one file each: `share(work, dtype, device)`, which gives a `Strategy`."""

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

ENDPOINT = "PET_RDZV_ENDPOINT"  # torchrun's own name for it


class Launch(BaseModel, frozen=True, extra="forbid"):
    """`launch: {processes: 2, strategy: fsdp}`: how many processes train a stage together, and how they share it."""

    processes: int = Field(1, ge=1, description="on each node; torchrun starts them")
    nodes: int = Field(1, ge=1, description="machines that see the same data and checkpoints")
    strategy: str = Field("ddp", description="a file of tasks/training/parallel/strategies/")
    rendezvous: str | None = Field(None, description=f"host:port on the first node; none = the variable {ENDPOINT}")

    @model_validator(mode="after")
    def _there_is_one(self) -> Self:
        known = catalog.names(__name__)
        if self.strategy not in known:
            raise ValueError(f"no strategy {self.strategy!r}; {catalog.suggest(self.strategy, known)}")
        return self

    @property
    def count(self) -> int:
        """All processes of all nodes."""
        return self.processes * self.nodes


class HasLoss(Protocol):
    """A stage's work, as far as a strategy can see it."""

    model: nn.Module

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean loss over a micro-batch and numbers to log."""
        ...


class Strategy:
    """What the loop asks of a strategy. This one: every process has all weights, and takes some micro-batches."""

    _idle_said = False
    lockstep = False  # whether every pass through the model is made by all processes side by side

    def __init__(self, work: HasLoss, dtype: torch.dtype, device: torch.device) -> None:
        self.work = work
        work.model.to(device)
        self.weights = Weights(work.model, dtype)

    @property
    def part(self) -> tuple[int, int]:
        """Which part of the data this process takes, and out of how many."""
        return processes.rank(), processes.count()

    def adopt(self, optimizers: Sequence[Optimizer]) -> None:
        """Be shown the optimizers of the run before anything is done with them."""

    def mine(self, batches: Sequence[Any]) -> list[tuple[Any, float]]:
        """The micro-batches of this process, each with its share of the step's weight.

        In lockstep the one who has fewer takes the first again, with share 0.
        """
        (rank, count), total = self.part, sum(batch.weight for batch in batches)
        if rank == 0 and len(batches) < count and not self._idle_said:
            self._idle_said = True
            said = (
                f"a step has {len(batches)} micro-batches for {count} processes, so some do nothing: make them smaller"
            )
            print(said, file=sys.stderr, flush=True)
        shares = [(batch, batch.weight / total) for batch in batches[rank::count]]
        missing = -(-len(batches) // count) - len(shares) if self.lockstep else 0
        return shares + [(batches[0], 0.0)] * missing

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The work's loss on one micro-batch."""
        return self.work.loss(batch)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the step."""
        loss.backward()  # type: ignore[no-untyped-call]
        self.weights.collect_gradients()

    def add_up_gradients(self) -> None:
        """Make each gradient the sum over all micro-batches of all processes."""
        processes.add_up_gradients(self.weights.masters)

    def add_up(self, numbers: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Numbers of this process's micro-batches, by share, as those of the step."""
        return processes.add_up(numbers)

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to `max_norm` where they are larger; their norm before."""
        return float(nn.utils.clip_grad_norm_(self.weights.masters, max_norm))

    def update(self, optimizers: Sequence[Optimizer]) -> None:
        """Move the weights."""
        for optimizer in optimizers:
            optimizer.step()
        self.weights.publish()

    def forget_gradients(self, optimizers: Sequence[Optimizer]) -> None:
        """Get ready for the next step."""
        for optimizer in optimizers:
            optimizer.zero_grad()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside the block the model can be used outside of `loss`, each process its `part`."""
        yield

    def state(self, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
        """Weights by name and the optimizers' states; what is in parts here is put together by the loop."""
        named = zip(self.weights.names, self.weights.masters, strict=True)
        return {"weights": dict(named), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}

    def copied_weights(self) -> dict[str, Tensor]:
        """A copy of the weights, for `take_weights` later on."""
        named = zip(self.weights.names, self.weights.masters, strict=True)
        return {name: master.detach().clone() for name, master in named}

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on with these weights, which may be whole or as this strategy keeps them."""
        with torch.no_grad():
            for name, master in zip(self.weights.names, self.weights.masters, strict=True):
                master.copy_(weights[name])
        self.weights.publish()

    def take_optimizers(self, optimizers: Sequence[Optimizer], states: Sequence[Any]) -> None:
        """Go on with these states of optimizers, as `state` gave them."""
        for optimizer, saved in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(saved)

    def restore(self) -> None:
        """Give the model its whole fp32 weights back, in every process."""
        self.weights.restore()


def begin(launch: Launch, work: HasLoss, dtype: torch.dtype, device: torch.device) -> Strategy:
    """The strategy that `launch` names, with `work.model` made ready for it; alone there is nothing to share."""
    if processes.count() == 1:
        return Strategy(work, dtype, device)
    strategy: Strategy = catalog.find(__name__, launch.strategy).share(work, dtype, device)
    return strategy
