"""Work for the training loop that takes milliseconds: a linear model on random numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.training.loop.work import Work


@dataclass
class Examples:
    x: Tensor
    y: Tensor
    weight: float


class LinearWork(Work):
    """Eight examples per step, in `num_parts` micro-batches. Dropout makes the result depend on the random state."""

    def __init__(self, num_parts: int = 1, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(dropout), nn.Linear(8, 1))
        self.num_parts, self.losses = num_parts, list[float]()

    def batches(self, step: int) -> Sequence[Examples]:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        y = x.sum(1, keepdim=True)
        sizes = [8] if self.num_parts == 1 else [5, 3]
        return [Examples(*part, float(len(part[0]))) for part in zip(x.split(sizes), y.split(sizes), strict=True)]

    def loss(self, batch: Examples) -> tuple[Tensor, Mapping[str, float]]:
        x = batch.x.to(next(self.model.parameters()).dtype)
        return ((self.model(x).float() - batch.y) ** 2).mean(), {"examples": batch.weight}

    def evaluate(self, step: int) -> Mapping[str, float]:
        return {"validation_loss": float(sum(p.abs().sum() for p in self.model.parameters()))}

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses = list(state["losses"])

    def stop(self) -> str | None:
        self.losses.append(0.0)
        return None


def weights(work: Work) -> list[Tensor]:
    return [p.detach().clone() for p in work.model.parameters()]


def same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
