"""Our losses on the batches that TRL wrote down (see preference_peers.py): the largest difference from its own."""

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


def reward(said: Any, world: Path) -> float:
    """The ranking loss with centering, through our scores."""
    model, _ = models.load_reward(world / "models/reward")
    sequences = [ids[mask == 1] for ids, mask in zip(said["ids"], said["mask"], strict=True)]
    chosen, rejected = reward_scores(model, sequences, pad_id=0).chunk(2)
    return difference(ranking_loss(chosen, rejected, centering=0.01).mean(), said["loss"])


def dpo(said: Any, world: Path) -> float:
    """The DPO loss, through our log-probabilities of policy and reference."""
    sequences, prompt_lengths = [], []
    for ids, mask in zip(said["ids"], said["mask"], strict=True):
        answer = np.flatnonzero(mask)
        sequences.append(ids[: answer[-1] + 1])
        prompt_lengths.append(int(answer[0]))
    sums = []
    for name in ("moved", "sft"):
        model, _ = models.load_causal(world / "models" / name) if name == "sft" else (moved(world), None)
        found = log_probabilities(model, sequences, prompt_lengths)
        sums.append(torch.stack([log_probs.sum() for log_probs in found]))
    chosen, rejected = (sums[0] - sums[1]).chunk(2)
    return difference(dpo_loss(chosen, rejected, 0.1).mean(), said["loss"])


def moved(world: Path) -> Any:
    """The policy that TRL made."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(world / "models/moved", dtype=torch.float32).eval()


def ppo(said: Any, world: Path) -> float:
    """Advantages and returns of the rollout, then policy and value loss of the update."""
    held = {name: from_numpy(said[name]) for name in said.files}
    token, state = ~held["padding_mask"], ~held["value_mask"]
    advantages, returns = gae(held["rewards"], held["values"], state, 1.0, 0.95)
    gaps = [difference(whiten(advantages, token) * token, said["advantages"] * token.numpy())]
    gaps.append(difference(returns * state, said["returns"] * state.numpy()))
    rows = held["rows"]
    here, known = token[rows], state[rows]
    new, old, advantage = (held[name][here] for name in ("new_logprobs", "mb_logprobs", "mb_advantage"))
    losses, _ = policy_loss(new, old, advantage, 0.2)
    gaps.append(difference(losses.mean(), said["loss"]))
    predicted, old, returned = (held[name][known] for name in ("vpred", "mb_values", "mb_return"))
    values = value_loss(predicted, old, returned, 0.2)
    return max(*gaps, difference(values.mean(), said["value_loss"]))


def difference(ours: Tensor, theirs: Any) -> float:
    """The largest absolute difference."""
    return float((ours.detach() - torch.as_tensor(theirs)).abs().max())
