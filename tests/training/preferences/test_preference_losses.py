"""Each loss with values computed by hand: sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4, sigmoid(0) = 1/2."""

import math

import torch
from torch import tensor

from tasks.training.preferences.preference_losses import dpo_loss, ipo_loss, kto_loss, list_weights, ranking_loss

LN2, LN3 = math.log(2), math.log(3)


def test_ranking_loss() -> None:
    """A difference of ln 3 costs -ln 3/4, equal scores ln 2, and a difference of -ln 3 costs -ln 1/4."""
    loss = ranking_loss(tensor([LN3, 5.0, 0.0]), tensor([0.0, 5.0, LN3]))
    torch.testing.assert_close(loss, tensor([-math.log(0.75), LN2, -math.log(0.25)]))


def test_a_margin_is_subtracted_from_the_difference() -> None:
    torch.testing.assert_close(ranking_loss(tensor([LN3]), tensor([0.0]), margin=LN3), tensor([LN2]))


def test_label_smoothing_mixes_both_orders() -> None:
    """0.9 times -ln 3/4 plus 0.1 times -ln 1/4."""
    expected = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    torch.testing.assert_close(ranking_loss(tensor([LN3]), tensor([0.0]), label_smoothing=0.1), tensor([expected]))
    torch.testing.assert_close(dpo_loss(tensor([LN3]), tensor([0.0]), 1.0, label_smoothing=0.1), tensor([expected]))


def test_centering_adds_the_squared_sum() -> None:
    """0.01 (2 + 2)^2 = 0.16."""
    torch.testing.assert_close(ranking_loss(tensor([2.0]), tensor([2.0]), centering=0.01), tensor([LN2 + 0.16]))


def test_the_weights_of_a_ranked_list_sum_to_one() -> None:
    """A list of three answers gives three pairs with the weight 1/3 each."""
    torch.testing.assert_close(list_weights(tensor([7, 7, 2, 7])), tensor([1 / 3, 1 / 3, 1.0, 1 / 3]))


def test_dpo() -> None:
    """Log-ratios 20 ln 3 and 10 ln 3 at beta .1: sigmoid(ln 3)."""
    torch.testing.assert_close(dpo_loss(tensor([20 * LN3]), tensor([10 * LN3]), 0.1), tensor([-math.log(0.75)]))


def test_ipo() -> None:
    """With beta 0.1 the minimum is at a difference of 5. A difference of 7 exceeds it by 2, and the loss is 2^2."""
    torch.testing.assert_close(ipo_loss(tensor([4.0]), tensor([-3.0]), 0.1), tensor([4.0]))


def test_kto() -> None:
    """beta (ratio - kl) = ln 3: a desirable answer of weight 2 costs 2 (1 - 3/4), an undesirable one 1 - 1/4."""
    ratio = tensor([1 + 10 * LN3, 1 + 10 * LN3])
    loss = kto_loss(ratio, tensor([True, False]), tensor(1.0), 0.1, desirable_weight=2.0)
    torch.testing.assert_close(loss, tensor([0.5, 0.75]))
    loss = kto_loss(ratio, tensor([True, False]), tensor(1.0), 0.1, undesirable_weight=2.0)
    torch.testing.assert_close(loss, tensor([0.25, 1.5]))
