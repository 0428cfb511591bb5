"""What a stage brings to the training loop: its model, its batches and its loss."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn

from tasks.training.parallel import strategies


class HasWeight(Protocol):
    """A micro-batch, as far as the loop knows it."""

    weight: float  # number of targets or pairs; the loss of a step is the mean over micro-batches with these weights


class Work(ABC):
    """Base class for the work of a stage. The first two methods are required, the others have defaults."""

    model: nn.Module  # all trainable weights, in fp32; PPO adds its value head to it
    strategy: strategies.Strategy | None = None  # how processes share the model; set by the loop

    @abstractmethod
    def batches(self, step: int) -> Sequence[Any]:
        """The micro-batches of one step, each with a `weight`.

        They are a pure function of (seed, step), or of these and what `state_dict` holds at a step that may be a
        checkpoint. Exact resume depends on it.
        """

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean loss over one micro-batch (scalar), and numbers for the step log."""

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Numbers on validation data after `step` steps. The loop sets eval mode and disables gradients."""
        return {}

    def may_checkpoint(self, step: int) -> bool:
        """Whether weights and `state_dict` describe the run completely after `step` steps.

        In PPO this is the case only between two rollouts.
        """
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides weights: nested dicts and lists of tensors and JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most stages have no state
        """Restore what `state_dict` returned."""

    def skipped(self, step: int, norm: float, batches: Sequence[Any]) -> None:
        """Called when `step` made no update because its gradient norm was not finite or much too large."""
        print(f"step {step} was skipped: its gradient norm is {norm:.3g}", file=sys.stderr, flush=True)

    def stop(self) -> str | None:
        """Called after every step: the reason to end the run early, or None."""
        return None

    def unsharded(self) -> AbstractContextManager[None]:
        """Context for any use of the model outside of `loss` and `evaluate`: its weights may be sharded."""
        return self.strategy.unsharded() if self.strategy is not None else nullcontext()
