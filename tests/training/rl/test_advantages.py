"""Advantage estimators, with values computed by hand for answers of three tokens and of one token."""

import torch
from torch import tensor

from tasks.training.rl.advantages import gae, grpo, rewards_to_go, rloo, whiten

MASK = tensor([[True, True, True], [True, False, False]])
REWARDS = tensor([[0.0, 1.0, 2.0], [3.0, 99.0, 99.0]])
VALUES = tensor([[0.5, 1.0, 1.0], [1.0, 99.0, 99.0]])


def test_gae() -> None:
    """gamma 1, lambda 1/2. Errors d of the long answer, from its end: 2 - 1 = 1; 1 + 1 - 1 = 1; 0 + 1 - 0.5 = 0.5.

    Advantages: 1; 1 + 1/2 = 1.5; 0.5 + 1.5/2 = 1.25. The short answer: 3 - 1 = 2. Numbers in the padding are ignored.
    """
    advantages, returns = gae(REWARDS, VALUES, MASK, gamma=1.0, gae_lambda=0.5)
    torch.testing.assert_close(advantages, tensor([[1.25, 1.5, 1.0], [2.0, 0.0, 0.0]]))
    torch.testing.assert_close(returns, tensor([[1.75, 2.5, 2.0], [3.0, 0.0, 0.0]]))


def test_lambda_one_is_the_return_minus_the_value_and_lambda_zero_the_error_of_one_step() -> None:
    """Returns 3, 3, 2 minus values 0.5, 1, 1; errors of one step 0.5, 1, 1."""
    torch.testing.assert_close(gae(REWARDS, VALUES, MASK, 1.0, 1.0)[0][0], tensor([2.5, 2.0, 1.0]))
    torch.testing.assert_close(gae(REWARDS, VALUES, MASK, 1.0, 0.0)[0][0], tensor([0.5, 1.0, 1.0]))


def test_rewards_to_go() -> None:
    """gamma 1/2: 2; 1 + 1 = 2; 0 + 1 = 1."""
    torch.testing.assert_close(rewards_to_go(REWARDS, MASK, 0.5), tensor([[1.0, 2.0, 2.0], [3.0, 0.0, 0.0]]))


def test_grpo() -> None:
    """1 and 3 have the mean 2 and the standard deviation sqrt 2. Equal scores have the advantage 0."""
    expected = tensor([-(0.5**0.5), 0.5**0.5, 0.0, 0.0])
    torch.testing.assert_close(grpo(tensor([1.0, 3.0, 5.0, 5.0]), 2, epsilon=0.0).nan_to_num(), expected)
    assert grpo(tensor([5.0, 5.0]), 2).tolist() == [0.0, 0.0]


def test_rloo() -> None:
    """1, 2 and 6 minus the mean of the other two scores, which is 4, 3.5 and 1.5."""
    torch.testing.assert_close(rloo(tensor([1.0, 2.0, 6.0]), 3), tensor([-3.0, -1.5, 4.5]))


def test_whitening_ignores_padding() -> None:
    """1, 2, 3, 2 have the mean 2 and the sample variance 2/3."""
    numbers = tensor([[1.0, 2.0, 3.0], [2.0, 50.0, 50.0]])
    root = 1.5**0.5
    torch.testing.assert_close(whiten(numbers, MASK), tensor([[-root, 0.0, root], [0.0, 0.0, 0.0]]))
    kept = whiten(numbers, MASK, shift_mean=False)
    torch.testing.assert_close(kept, tensor([[2 - root, 2.0, 2 + root], [2.0, 0.0, 0.0]]))
