"""What PPO trains: the policy with a value head on its trunk, or with a critic of its own."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tasks.answers import AnswerBatch, Ids, answer_states, collate, evaluating

Critic = Literal["trunk", "detached", "own", "none"]


class ValueHead(nn.Module):
    """A linear map from hidden states to values, fp32, zero at first. `scale` multiplies its learning rate."""

    keep_fp32 = True

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale, self.linear = scale, nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., width] -> values [..., 1]."""
        values: Tensor = self.linear(hidden.float()) * self.scale
        return values


class PolicyWithValue(nn.Module):
    """`policy`, a causal model; `value_head`; with critic "own" a trunk for values alone, begun as `critic_base`.

    "trunk": the value loss trains the policy's trunk too; "detached": it trains the head alone; "none": no values
    (advantages that need no critic).
    """

    policy: Any

    def __init__(self, policy: Any, critic: Critic, value_scale: float, critic_base: Any = None) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        self.critic_model = copy.deepcopy(critic_base or _plain(policy)) if critic == "own" else None
        if self.critic_model is not None:
            self.critic_model.requires_grad_(False).base_model.requires_grad_(True)
        width = _plain(policy).config.hidden_size
        self.value_head = ValueHead(width, value_scale) if critic != "none" else None

    @property
    def decoding_head(self) -> nn.Module | None:
        """The head that gives values while the policy decodes, where values come from the policy's trunk."""
        return self.value_head if self.critic in ("trunk", "detached") else None

    def values(self, answers: AnswerBatch, states: Tensor) -> Tensor | None:
        """The value of each state that an answer token is drawn in, [tokens]; `states` are the policy's trunk's."""
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
        """The critic's values of every answer token, one tensor on the CPU per sequence; critic "own" alone."""
        with evaluating(self):
            answers = collate(sequences, prompt_lengths, pad_id, next(self.parameters()).device)
            flat = self.values(answers, torch.empty(0))
        assert flat is not None
        return list(torch.split(flat.cpu(), answers.lengths.tolist()))


def _plain(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
