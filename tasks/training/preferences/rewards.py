"""What the policy is paid: a score per answer, minus what each token strays from the reference."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from tasks import gold, models
from tasks.answers import Ids, reward_scores
from tasks.errors import BadModel, BadParams

Scorer = Callable[[Sequence[Ids], Sequence[str], Sequence[Mapping[str, Any]]], Tensor]
"""(sequences of prompt and answer, answers as text, metadata of the prompts) -> scores, float32 [answers]."""

Estimator = Literal["k1", "k2", "k3"]
RewardFunction = Callable[[str, Mapping[str, Any]], float]


def kl_per_token(log_probs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """Estimates of KL(policy || reference) from tokens drawn from the policy (Schulman 2020, "Approximating KL").

    With d = log policy - log reference: k1 = d (unbiased, what InstructGPT pays), k2 = d^2 / 2 (little variance),
    k3 = exp(-d) - 1 + d (unbiased, never negative).
    """
    d = log_probs - reference
    if estimator == "k1":
        return d
    return d.square() / 2 if estimator == "k2" else torch.expm1(-d) + d


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """-kl_coef kl at every token, and the score at an answer's last one (arXiv:2203.02155): [answers, tokens]."""
    rewards = -kl_coef * kl * mask
    last = mask.sum(1) - 1
    return rewards.index_put((torch.arange(len(scores), device=scores.device), last), scores, accumulate=True)


class KlCoef(BaseModel, frozen=True, extra="forbid"):
    """The weight of the KL penalty: constant, or adapted to a target (Ziegler 2019, arXiv:1909.08593, section 2.2)."""

    initial: float = Field(default=0.05, ge=0, description="First value: reward that is subtracted per nat of KL.")
    target: float | None = Field(
        default=None,
        gt=0,
        description="KL in nats per answer that the coefficient is adapted to; null keeps it constant.",
    )
    horizon: int = Field(
        default=2000, gt=0, description="Time scale of the adaptation, in answers; a smaller one adapts faster."
    )

    def next(self, coef: float, kl: float, num_answers: int) -> float:
        """The coefficient after `num_answers` with mean `kl` each: times 1 +- at most 0.2 num_answers / horizon."""
        if self.target is None:
            return coef
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coef * (1 + error * num_answers / self.horizon)


def shape_scores(scores: Tensor, finished: Tensor, clip: float | None, missing_end_penalty: float) -> Tensor:
    """Scores within +-clip, less a penalty where an answer never came to its end (Huang et al. 2023)."""
    clipped = scores if clip is None else scores.clamp(-clip, clip)
    return clipped - missing_end_penalty * ~finished


def exact_match(answer: str, metadata: Mapping[str, Any]) -> float:
    """1 where the answer says what metadata["answer"] says."""
    return float(gold.correct(answer, metadata))


def num_characters(answer: str, metadata: Mapping[str, Any]) -> float:
    """The answer's length; with a negative weight it pays for brevity."""
    return float(len(answer))


BUILT_IN: dict[str, RewardFunction] = {"exact_match": exact_match, "num_characters": num_characters}


def find_function(name: str) -> RewardFunction:
    """A reward function (answer, metadata) -> number: built in, or "package.module:function". Raises BadParams."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.partition(":")
    try:
        function: RewardFunction = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(sorted(BUILT_IN))
        said = f"no reward function {name!r} ({error}); built in are {known}; your own: package.module:function"
        raise BadParams(said) from error
    return function


def function_scores(
    weights: Mapping[str, float], answers: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> Tensor:
    """The weighted sum of reward functions for each answer: [answers]."""
    total = torch.zeros(len(answers))
    for name, weight in weights.items():
        function = find_function(name)
        total += weight * torch.tensor([function(a, m) for a, m in zip(answers, metadata, strict=True)])
    return total


def load_model(name: str | Path, tokenizer: Any) -> Any:
    """The frozen reward model at `name`, which must read the tokens of `tokenizer`. Raises BadModel."""
    model, own = models.load_reward(name)
    if own.get_vocab() != tokenizer.get_vocab():
        raise BadModel(f"{name} reads other tokens than the policy writes: train it on this data/tokens/tokenizer")
    return model.requires_grad_(False)


def scorer(model: Any, weight: float, functions: Mapping[str, float], pad_id: int) -> Scorer:
    """`weight` times the score of `model` (None: no model) plus the weighted reward functions."""

    def score(sequences: Sequence[Ids], answers: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        total = function_scores(functions, answers, metadata)
        return total if model is None else total + weight * reward_scores(model, sequences, pad_id=pad_id)

    return score
