"""Rewards of a policy, with values computed by hand."""

import math
from typing import Any, Literal

import pytest
import torch
from torch import tensor

from tasks.errors import BadParams
from tasks.training.preferences.rewards import (
    KlCoef,
    find_function,
    function_scores,
    kl_per_token,
    shape_scores,
    token_rewards,
)


def test_estimators_of_kl() -> None:
    """The token has the probability 1/2 under the policy and 1/4 under the reference: d = ln 2."""
    policy, reference = tensor([math.log(0.5)]), tensor([math.log(0.25)])
    torch.testing.assert_close(kl_per_token(policy, reference, "k1"), tensor([math.log(2)]))
    torch.testing.assert_close(kl_per_token(policy, reference, "k2"), tensor([math.log(2) ** 2 / 2]))
    torch.testing.assert_close(kl_per_token(policy, reference, "k3"), tensor([0.5 - 1 + math.log(2)]))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: Literal["k1", "k3"]) -> None:
    """Their mean over tokens, weighted by the probabilities of the policy, equals the KL."""
    policy, reference = tensor([0.7, 0.2, 0.1]), tensor([0.3, 0.3, 0.4])
    expected = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * kl_per_token(policy.log(), reference.log(), estimator)).sum(), expected)


def test_the_last_token_gets_the_score_and_every_token_the_kl_penalty() -> None:
    mask = tensor([[True, True], [True, False]])
    rewards = token_rewards(tensor([10.0, 20.0]), tensor([[1.0, 2.0], [3.0, 9.0]]), mask, 0.5)
    torch.testing.assert_close(rewards, tensor([[-0.5, 9.0], [18.5, 0.0]]))


def test_the_coefficient_adapts_to_its_target() -> None:
    """Twice the target is a relative error of 1, clipped to 0.2: 100 answers at a horizon of 1000 change it by 2 %."""
    adaptive = KlCoef(initial=0.1, target=1.0, horizon=1000)
    assert adaptive.next(0.1, kl=2.0, num_answers=100) == pytest.approx(0.102)
    assert adaptive.next(0.1, kl=0.9, num_answers=100) == pytest.approx(0.099)
    assert KlCoef(initial=0.1).next(0.1, kl=50.0, num_answers=100) == 0.1


def test_scores_are_clipped_before_the_penalty() -> None:
    scores = shape_scores(tensor([7.0, -7.0, 1.0]), tensor([True, True, False]), 5.0, 2.0)
    assert scores.tolist() == [5.0, -5.0, -1.0]


def test_reward_functions_are_weighted_and_added() -> None:
    scores = function_scores({"exact_match": 2.0, "num_characters": -0.1}, ["ten.", "nine"], [{"answer": "ten"}] * 2)
    torch.testing.assert_close(scores, tensor([1.6, -0.4]))


def test_a_function_of_another_module() -> None:
    function: Any = find_function("tests.training.tiny:num_dots")
    assert function("a.b.", {}) == 2


@pytest.mark.parametrize(
    "name", ["os:system", "builtins:eval", "subprocess:run", "operator:add", "tasks.models:shutil", "json:dumps"]
)
def test_functions_of_other_packages_are_refused(name: str) -> None:
    with pytest.raises(BadParams, match=r"ppo\.rewards\.packages|Python function"):
        find_function(name)
    assert callable(find_function("json:dumps", packages=("json",)))


@pytest.mark.parametrize("name", ["exact_mach", "no_such_module:f", "tests.training.tiny:no_such", ""])
def test_the_error_for_an_unknown_function_names_the_known_ones(name: str) -> None:
    with pytest.raises(BadParams, match="exact_match"):
        find_function(name)
