"""The model that PPO trains: a policy with a value head on its trunk, or with a separate critic."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.answers import AnswerBatch, Ids, answer_states, collate, evaluating

Critic = Literal["trunk", "detached", "own", "none"]


class ValueHead(nn.Module):
    """A linear map from hidden states to values, in fp32, initialized to zero."""

    keep_fp32 = True

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        # The optimizer has one learning rate for policy and head. The factor on the output acts as a higher learning
        # rate of the head: an update of the same size changes the value `scale` times as much.
        self.scale, self.linear = scale, nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., width] -> values [..., 1]."""
        values: Tensor = self.linear(hidden.float()) * self.scale
        return values


class PolicyWithValue(nn.Module):
    """A causal model `policy` with a `value_head` on hidden states.

    critic: "trunk" reads the states of the policy, and the value loss trains its trunk too; "detached" reads the same
    states, but the value loss trains the head only; "own" has a trunk of its own, initialized from `critic_base` (null:
    the policy); "none" has no values, for advantage estimators that need none.
    """

    policy: Any

    def __init__(self, policy: Any, critic: Critic, value_scale: float, critic_base: Any = None) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        self.critic_model = copy.deepcopy(critic_base or _plain(policy)) if critic == "own" else None
        if self.critic_model is not None:
            self.critic_model.requires_grad_(False).base_model.requires_grad_(True)
        width = _plain(policy).get_output_embeddings().weight.shape[1]  # that of the states that enter the head
        self.value_head = ValueHead(width, value_scale) if critic != "none" else None

    @property
    def decoding_head(self) -> nn.Module | None:
        """The head that computes values during decoding, if values are read from the trunk of the policy."""
        return self.value_head if self.critic in ("trunk", "detached") else None

    def values(self, answers: AnswerBatch, states: Tensor) -> Tensor | None:
        """The value of each state that predicts an answer token, [tokens]; `states` are those of the policy."""
        if self.value_head is None:
            return None
        if self.critic_model is not None:
            states = answer_states(self.critic_model, answers)
        elif self.critic == "detached":
            states = states.detach()
        values: Tensor = self.value_head(states).squeeze(-1)
        return values

    @torch.no_grad()
    def values_of(self, sequences: Sequence[Ids], prompt_lengths: Sequence[int], pad_id: int) -> list[Tensor]:
        """The values of every answer token, one tensor on the CPU per sequence; only for the critic "own"."""
        with evaluating(self):
            answers = collate(sequences, prompt_lengths, pad_id, next(self.parameters()).device)
            flat = self.values(answers, torch.empty(0))
        assert flat is not None
        return list(torch.split(flat.cpu(), answers.lengths.tolist()))


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
