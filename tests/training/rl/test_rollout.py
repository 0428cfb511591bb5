"""Rollouts of a tiny model: advantages, values and log-probabilities compared with a direct computation."""

from typing import Any

import numpy as np
import pytest
import torch

from tasks.answers import log_probabilities
from tasks.pairs import Prompts
from tasks.training.preferences.reference import Reference
from tasks.training.rl.policy import PolicyWithValue
from tasks.training.rl.rollout import Collector, Normalizer, RewardParams
from tests.training import tiny

PROMPTS = Prompts([np.array(tiny.prompt(x)) for x in ("a", "b c", "d")], [{"text": x} for x in ("a", "b c", "d")])


def score(sequences: Any, answers: Any, metadata: Any) -> Any:
    """The score of an answer is the number of tokens of its sequence."""
    return torch.tensor([float(len(ids)) for ids in sequences])


def collector(critic: Any = "trunk", advantage: Any = "gae", group_size: Any = 1, **changes: Any) -> Any:
    settings = {"normalize_scores": False, "whiten_advantages": False, "clip_scores": None, "missing_end_penalty": 0.0}
    policy = tiny.model()
    model = PolicyWithValue(policy, critic, 1.0)
    if model.value_head is not None:
        torch.nn.init.normal_(model.value_head.linear.weight, generator=torch.Generator().manual_seed(1))
    params = RewardParams(**{**settings, **changes})
    reference = Reference(tiny.model(seed=1))
    return Collector(model, reference, score, tiny.tokenizer(), params, advantage, group_size, 6, 1.0, Normalizer())


def collect(kl_coef: Any = 0.1, **changes: Any) -> Any:
    return collector(**changes).collect(PROMPTS, torch.Generator().manual_seed(0), kl_coef)


def test_log_probs_of_policy_and_reference_equal_those_of_a_forward_pass() -> None:
    rollout = collect()
    for seed, log_probs in ((0, rollout.log_probs), (1, rollout.reference)):
        expected = log_probabilities(tiny.model(seed), rollout.sequences, rollout.prompt_lengths)
        for actual, right in zip(log_probs, expected, strict=True):
            torch.testing.assert_close(actual, right, atol=1e-5, rtol=0)
    kl = sum(float((p - q).sum()) for p, q in zip(rollout.log_probs, rollout.reference, strict=True)) / 3
    assert rollout.numbers["kl"] == pytest.approx(kl, abs=1e-4)


def test_with_lambda_one_the_advantage_is_the_sum_of_later_rewards_minus_the_value() -> None:
    rollout = collect(gae_lambda=1.0, kl_coef=0.1)
    for row, ids in enumerate(rollout.sequences):
        rewards = -0.1 * (rollout.log_probs[row] - rollout.reference[row])
        rewards[-1] += len(ids)
        to_go = rewards.flip(0).cumsum(0).flip(0)
        torch.testing.assert_close(rollout.advantages[row], to_go - rollout.values[row], atol=1e-4, rtol=0)
        torch.testing.assert_close(rollout.returns[row], to_go, atol=1e-4, rtol=0)


@pytest.mark.parametrize("advantage", ["grpo", "rloo"])
def test_group_advantages_are_one_number_per_answer_and_sum_to_zero(advantage: str) -> None:
    rollout = collect(critic="none", advantage=advantage, group_size=4)
    assert len(rollout.sequences) == 12
    assert all(len(set(tokens.tolist())) == 1 for tokens in rollout.advantages)
    for start in (0, 4, 8):
        assert sum(float(rollout.advantages[row][0]) for row in range(start, start + 4)) == pytest.approx(0.0, abs=1e-3)


def test_values_of_a_separate_critic_come_from_its_own_trunk() -> None:
    with_critic = collector(critic="own")
    for parameter in with_critic.model.critic_model.parameters():
        parameter.data.mul_(0.5)
    rollout = with_critic.collect(PROMPTS, torch.Generator().manual_seed(0), 0.1)
    ids, length = rollout.sequences[1], rollout.prompt_lengths[1]
    hidden = with_critic.model.critic_model.model(torch.tensor([ids])).last_hidden_state[0, length - 1 : -1]
    torch.testing.assert_close(
        rollout.values[1], with_critic.model.value_head(hidden).squeeze(-1).detach(), atol=1e-5, rtol=0
    )


def test_scores_are_normalized_by_those_of_the_first_rollout() -> None:
    normalizer = Normalizer()
    torch.testing.assert_close(normalizer(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))
    torch.testing.assert_close(normalizer(torch.tensor([5.0])), torch.tensor([3.0]))


def test_a_batch_contains_the_tokens_of_its_answers_in_order() -> None:
    rollout = collect()
    batch = rollout.batch(tiny.model(), [2, 0], pad_id=0)
    expected = rollout.sequences[2][rollout.prompt_lengths[2] :] + rollout.sequences[0][rollout.prompt_lengths[0] :]
    assert batch.answers.targets.tolist() == expected
    torch.testing.assert_close(batch.log_probs, torch.cat((rollout.log_probs[2], rollout.log_probs[0])))
    assert batch.weight == len(expected)


def test_whitened_advantages_have_mean_zero_and_variance_one() -> None:
    flat = torch.cat(collect(whiten_advantages=True).advantages)
    assert float(flat.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(flat.var()) == pytest.approx(1.0, abs=1e-4)
