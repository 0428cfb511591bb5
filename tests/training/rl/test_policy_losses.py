"""The losses of PPO, with values computed by hand."""

import math

import pytest
import torch
from torch import tensor

from tasks.training.rl.policy_losses import entropy, explained_variance, policy_loss, value_loss

LN2 = math.log(2)


def test_clipping_limits_gains_but_not_losses() -> None:
    """Ratios 2 and 1/2, clip range 0.2. Gains are clipped: -1 * 1.2 and 1 * 0.8. Losses are not: 1 * 2 and -1 * 0.5."""
    new = tensor([LN2, -LN2, LN2, -LN2])
    loss, clipped = policy_loss(new, torch.zeros(4), tensor([1.0, -1.0, -1.0, 1.0]), 0.2)
    torch.testing.assert_close(loss, tensor([-1.2, 0.8, 2.0, -0.5]))
    assert clipped.tolist() == [True, True, False, False]


def test_the_gradient_is_zero_where_clipping_is_active() -> None:
    new = tensor([LN2, 0.0], requires_grad=True)
    loss, _ = policy_loss(new, torch.zeros(2), torch.ones(2), 0.2)
    loss.sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == [0.0, -1.0]


def test_value_loss() -> None:
    """Return 1, old value 0, clip range 0.2. At 0.9 the clipped value counts: 0.8^2 / 2; at -0.1 1.1^2 / 2."""
    losses = value_loss(tensor([0.9, -0.1]), torch.zeros(2), torch.ones(2), 0.2)
    torch.testing.assert_close(losses, tensor([0.32, 0.605]))
    torch.testing.assert_close(value_loss(tensor([0.9]), tensor([0.0]), tensor([1.0]), None), tensor([0.005]))


def test_entropy() -> None:
    """Four equal probabilities have the entropy ln 4; 1/2, 1/4, 1/4 have 1.5 ln 2."""
    logits = tensor([[1.0, 1.0, 1.0, 1.0], [math.log(0.5), math.log(0.25), math.log(0.25), -1e9]])
    torch.testing.assert_close(entropy(logits.log_softmax(-1)), tensor([2 * LN2, 1.5 * LN2]))


def test_explained_variance() -> None:
    returns = tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns) == pytest.approx(1.0)
    assert explained_variance(tensor([2.0, 2.0, 2.0]), returns) == pytest.approx(0.0)
    assert explained_variance(-returns, returns) == pytest.approx(-3.0)
