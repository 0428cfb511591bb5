"""Rejection sampling: the best of n answers by the reward model, or by a reward function, become data for sft.

Also called best-of-n distillation; the third method of Llama 2 (Touvron 2023, arXiv:2307.09288, section 3.2.3) beside
dpo and ppo. Prompts whose answers all have the same score teach nothing and are left out, as are answers that were cut
off: a model that learns them ends its own answers in the middle.
"""

import importlib
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tasks import gold, models
from tasks.answers import reward_scores
from tasks.errors import BadParams, NothingLeft
from tasks.pairs import read_prompts
from tasks.rounds.measures import answer, single_turn

RewardFunction = Callable[[str, Mapping[str, Any]], float]
VALIDATION_SHARE = 0.05


def best_answers(
    policy: Path, reward: Path | None, function: str | None, tokens: Path, *, num_prompts: int, num_answers: int,
    max_new_tokens: int, seed: int,
) -> tuple[list[dict[str, Any]], dict[str, float]]:  # fmt: skip
    """Rows of CONVERSATIONS with the best of `num_answers` answers to each of `num_prompts` prompts, and counts.

    reward: the folder of a reward model; function: module:function, which is used instead. Raises NothingLeft.
    """
    prompts = single_turn(read_prompts(tokens / "prompts/train", sources=None))
    prompts = prompts.select(sorted(random.Random(seed).sample(range(len(prompts)), min(num_prompts, len(prompts)))))
    model, tokenizer = models.load_causal(policy)
    samples = [answer(model, tokenizer, prompts, max_new_tokens, seed * 1000 + i) for i in range(num_answers)]
    if function is not None:
        score = reward_function(function)
        columns = [
            torch.tensor([score(text, m) for text, m in zip(one.texts, prompts.metadata, strict=True)])
            for one in samples
        ]
    else:
        assert reward is not None
        reward_model, _ = models.load_reward(reward)
        columns = [reward_scores(reward_model, one.sequences, pad_id=tokenizer.pad_token_id) for one in samples]
    scores = torch.stack([column.double() for column in columns], 1)  # [prompts, answers]
    is_finished = torch.tensor([one.finished for one in samples]).T
    usable = scores.masked_fill(~is_finished, -torch.inf)
    differs = usable.max(1).values > scores.min(1).values
    rows = []
    for index in torch.nonzero(differs).flatten().tolist():
        best = samples[int(usable[index].argmax())].texts[index]
        text = str(prompts.metadata[index].get("text", ""))
        rows.append(_row(index, text, best, seed))
    if not rows:
        raise NothingLeft(
            f"all {num_answers} answers to each of {len(prompts)} prompts have the same score, or are longer than "
            f"{max_new_tokens} tokens, so that the best of them teaches nothing. Increase num_answers or "
            "max_new_tokens, or use the method dpo."
        )
    counts = {
        "prompts": len(prompts), "without_difference": len(prompts) - len(rows), "cut_off": int((~is_finished).sum()),
        "mean_score": round(float(scores.mean()), 6), "mean_best_score": round(float(scores.max(1).values.mean()), 6),
    }  # fmt: skip
    return rows, counts


def reward_function(name: str) -> RewardFunction:
    """`gold`, or the function that module:function names. Raises BadParams."""
    if name == "gold":
        return gold.gold
    module, _, attribute = name.partition(":")
    try:
        function: RewardFunction = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadParams(f"reward_function {name!r} is neither gold nor module:function ({error}).") from None
    return function


def _row(index: int, prompt: str, best: str, seed: int) -> dict[str, Any]:
    split = "validation" if random.Random(f"{seed} {prompt}").random() < VALIDATION_SHARE else "train"
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": best}]
    return {"id": f"best-{index}", "messages": messages, "source": "rejection", "group": f"best-{index}",
            "split": split, "metadata": "{}"}  # fmt: skip
