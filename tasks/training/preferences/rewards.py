"""Rewards of a policy: a score for each answer, and a KL penalty for each token that differs from the reference.

Scores come from a reward model, from reward functions or from both. The KL penalty keeps the policy near the reference,
because the reward model is reliable only for answers such as those that it was trained on.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from tasks import gold, models
from tasks.answers import Ids, reward_scores
from tasks.causal import remembered
from tasks.causal.self_check import AS_LOADED, Needs
from tasks.chat_templates import ChatTemplate
from tasks.errors import BadModel, BadParams

Scorer = Callable[[Sequence[Ids], Sequence[str], Sequence[Mapping[str, Any]]], Tensor]
"""(sequences of prompt and answer, answers as text, metadata of the prompts) -> scores, float32 [answers]."""

Estimator = Literal["k1", "k2", "k3"]
RewardFunction = Callable[[str, Mapping[str, Any]], float]


def kl_per_token(log_probs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """Estimate KL(policy || reference) in nats at each token, sampled from the policy (Schulman 2020).

    With d = log policy - log reference: k1 = d (unbiased; used by InstructGPT), k2 = d^2 / 2 (low variance, biased),
    k3 = exp(-d) - 1 + d (unbiased, never negative). http://joschu.net/blog/kl-approx.html
    """
    # k1 suits a reward, which has no gradient. As a loss term it is useless, because the mean of its gradient is 0;
    # GRPO uses k3 there.
    d = log_probs - reference
    if estimator == "k1":
        return d
    return d.square() / 2 if estimator == "k2" else torch.expm1(-d) + d


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """-kl_coef * kl at every token, plus the score at the last token (arXiv:2203.02155): [answers, tokens]."""
    # The score judges the complete answer, so it is added where the answer ends. Returns and advantages distribute it
    # over the earlier tokens.
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
        """The coefficient after `num_answers` answers with a mean KL of `kl` nats per answer."""
        # A proportional controller. The relative error is clipped to 20 %, so that a single rollout far from the target
        # changes the coefficient by a factor of at most 1 +- 0.2 * num_answers / horizon.
        if self.target is None:
            return coef
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        return coef * (1 + error * num_answers / self.horizon)


def shape_scores(scores: Tensor, finished: Tensor, clip: float | None, missing_end_penalty: float) -> Tensor:
    """Clip scores to +-clip; subtract a penalty from answers without an end token (Huang et al. 2023)."""
    # The penalty is subtracted after clipping: otherwise it would vanish for scores beyond the bound.
    clipped = scores if clip is None else scores.clamp(-clip, clip)
    return clipped - missing_end_penalty * ~finished


def exact_match(answer: str, metadata: Mapping[str, Any]) -> float:
    """1 if the answer equals metadata["answer"] (tasks/gold.py), else 0."""
    return float(gold.correct(answer, metadata))


def num_characters(answer: str, metadata: Mapping[str, Any]) -> float:
    """The length of the answer in characters; a negative weight rewards short answers."""
    return float(len(answer))


PROJECT = tuple({Path.cwd().resolve(): None, Path(__file__).resolve().parents[3]: None})  # where own modules are
BUILT_IN: dict[str, RewardFunction] = {"exact_match": exact_match, "num_characters": num_characters}


def find_function(name: str, packages: Sequence[str] = ()) -> RewardFunction:
    """Return a reward function (answer, metadata) -> number: built in, or "module:function". Raises BadParams.

    Its module is a file of the project or of one of `packages`, which defines it in Python: params alone must not be
    able to call any function that happens to be installed, such as os:system.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, _, attribute = name.partition(":")
    _refuse_foreign(name, module, packages)
    try:
        function: RewardFunction = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        built_in = ", ".join(sorted(BUILT_IN))
        raise BadParams(
            f"there is no reward function {name!r} ({error}). Built in are {built_in}; a function of your own is named "
            "package.module:function."
        ) from error
    if not inspect.isfunction(function) or function.__module__.partition(".")[0] != module.partition(".")[0]:
        raise BadParams(f"the reward function {name!r} is not a Python function that {module} itself defines.")
    return function


def _refuse_foreign(name: str, module: str, packages: Sequence[str]) -> None:
    """Raise BadParams if `module` is neither a file of the project nor of `packages`; nothing of it is imported."""
    top = module.partition(".")[0]
    folders = [folder for folder in PROJECT if (folder / f"{top}.py").is_file() or any((folder / top).glob("*.py"))]
    loaded = getattr(sys.modules.get(top), "__file__", None)
    is_own = loaded is None or any(Path(loaded).parent in (folder, folder / top) for folder in folders)
    if top in packages or (top.isidentifier() and folders and is_own):
        return
    raise BadParams(
        f"there is no reward function {name!r} in a file of the project ({top}.py or {top}/ in {PROJECT[0]}). Built in "
        f"are {', '.join(sorted(BUILT_IN))}; a function of your own is named module:function. If it is in an installed "
        "package, add the package to ppo.rewards.packages in params.yaml."
    )


def function_scores(
    weights: Mapping[str, float],
    answers: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
    packages: Sequence[str] = (),
) -> Tensor:
    """The weighted sum of reward functions for each answer: [answers]."""
    total = torch.zeros(len(answers))
    for name, weight in weights.items():
        function = find_function(name, packages)
        total += weight * torch.tensor([function(a, m) for a, m in zip(answers, metadata, strict=True)])
    return total


def load_model(name: str | Path, tokenizer: Any) -> Any:
    """Load the reward model at `name` and freeze it. Raises BadModel if its tokenizer is not `tokenizer`."""
    model, own = models.load_reward(name)
    if own.get_vocab() != tokenizer.get_vocab():
        raise BadModel(
            f"the reward model {name} has another tokenizer than the policy, so it would read other tokens than the "
            "policy writes. Train a reward model on token files of data/tokens/tokenizer."
        )
    remembered.prepare(model, tokenizer, Needs(attentions=AS_LOADED), keep_attention=True)
    return model.requires_grad_(False)


def scorer(
    model: Any, weight: float, functions: Mapping[str, float], tokenizer: Any, packages: Sequence[str] = ()
) -> Scorer:
    """Return a function that computes `weight` * score of `model` (None: no model) + the weighted reward functions.

    The model reads after a finished answer what the chat template puts there, as in the pairs that it was trained on.
    """

    def score(sequences: Sequence[Ids], answers: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> Tensor:
        total = function_scores(functions, answers, metadata, packages)
        if model is None:
            return total
        complete = [ChatTemplate.of(tokenizer).complete(sequence) for sequence in sequences]
        return total + weight * reward_scores(model, complete, pad_id=tokenizer.pad_token_id)

    return score
