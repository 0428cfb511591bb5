"""Our losses on batches that TRL has written to a file (see preference_peers.py), compared with the losses of TRL."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, from_numpy

from tasks import models
from tasks.answers import log_probabilities, reward_scores
from tasks.training.preferences.preference_losses import dpo_loss, ranking_loss
from tasks.training.rl.advantages import gae, whiten
from tasks.training.rl.policy_losses import policy_loss, value_loss


def reward(trl_values: Any, data: Path) -> float:
    """The difference of the ranking loss with centering, computed from our scores."""
    model, _ = models.load_reward(data / "models/reward")
    sequences = [ids[mask == 1] for ids, mask in zip(trl_values["ids"], trl_values["mask"], strict=True)]
    chosen, rejected = reward_scores(model, sequences, pad_id=0).chunk(2)
    return difference(ranking_loss(chosen, rejected, centering=0.01).mean(), trl_values["loss"])


def dpo(trl_values: Any, data: Path) -> float:
    """The difference of the DPO loss, computed from our log-probabilities of policy and reference."""
    sequences, prompt_lengths = [], []
    for ids, mask in zip(trl_values["ids"], trl_values["mask"], strict=True):
        answer = np.flatnonzero(mask)
        sequences.append(ids[: answer[-1] + 1])
        prompt_lengths.append(int(answer[0]))
    sums = []
    for name in ("changed", "sft"):
        model, _ = models.load_causal(data / "models" / name) if name == "sft" else (changed_policy(data), None)
        log_probs_by_answer = log_probabilities(model, sequences, prompt_lengths)
        sums.append(torch.stack([log_probs.sum() for log_probs in log_probs_by_answer]))
    chosen, rejected = (sums[0] - sums[1]).chunk(2)
    return difference(dpo_loss(chosen, rejected, 0.1).mean(), trl_values["loss"])


def changed_policy(data: Path) -> Any:
    """The policy that TRL has changed, so that it differs from the reference."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(data / "models/changed", dtype=torch.float32).eval()


def ppo(trl_values: Any, data: Path) -> float:
    """The largest difference of advantages and returns of a rollout, and of policy and value loss of an update."""
    tensors = {name: from_numpy(trl_values[name]) for name in trl_values.files}
    token, state = ~tensors["padding_mask"], ~tensors["value_mask"]
    advantages, returns = gae(tensors["rewards"], tensors["values"], state, 1.0, 0.95)
    differences = [difference(whiten(advantages, token) * token, trl_values["advantages"] * token.numpy())]
    differences.append(difference(returns * state, trl_values["returns"] * state.numpy()))
    rows = tensors["rows"]
    token_mask, state_mask = token[rows], state[rows]
    new, old, advantage = (tensors[name][token_mask] for name in ("new_logprobs", "mb_logprobs", "mb_advantage"))
    losses, _ = policy_loss(new, old, advantage, 0.2)
    differences.append(difference(losses.mean(), trl_values["loss"]))
    predicted, old, returned = (tensors[name][state_mask] for name in ("vpred", "mb_values", "mb_return"))
    values = value_loss(predicted, old, returned, 0.2)
    return max(*differences, difference(values.mean(), trl_values["value_loss"]))


def difference(value: Tensor, expected: Any) -> float:
    """The largest absolute difference."""
    return float((value.detach() - torch.as_tensor(expected)).abs().max())
