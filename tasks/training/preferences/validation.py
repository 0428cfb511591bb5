"""Validation of a policy by its answers to prompts: gold reward, score, KL to the reference; no gradient uses them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from tasks import gold
from tasks.answers import Ids
from tasks.chat_templates import ChatTemplate, end_ids
from tasks.generation import Generated, generate
from tasks.pairs import Prompts
from tasks.training.preferences.reference import Reference
from tasks.training.preferences.rewards import Scorer, load_model, scorer


class ValidationParams(BaseModel, frozen=True, extra="forbid"):
    """How a policy is measured on validation prompts during training."""

    num_prompts: int | None = Field(
        default=200, ge=1, description="Maximum number of validation prompts; null uses all."
    )
    temperature: float = Field(default=1.0, ge=0, description="Sampling temperature; 0 takes the most probable tokens.")
    gold_model: str | None = Field(
        default=None,
        description="Folder or hub name of a reward model trained on other data. Its score is the gold reward if "
        "answers cannot be verified.",
    )
    num_samples: int = Field(default=8, ge=0, description="Number of answers per evaluation that the report shows.")


class PolicyValidation:
    """Lets a policy answer `prompts`, always with the same random numbers, so that only the weights differ."""

    def __init__(
        self, prompts: Prompts, tokenizer: Any, reference: Reference, score: Scorer | None, params: ValidationParams,
        *, max_new_tokens: int, seed: int,
    ) -> None:  # fmt: skip
        self.prompts, self.tokenizer, self.reference = prompts.evenly_spaced(params.num_prompts), tokenizer, reference
        self.score, self.params, self.max_new_tokens, self.seed = score, params, max_new_tokens, seed
        self._gold_score = gold_scorer(params.gold_model, tokenizer)
        self.samples: list[dict[str, Any]] = []

    def measure(self, policy: Any, step: int) -> dict[str, float]:
        """Means over answers: gold and exact_match (if answers can be verified), score, kl (nats), length, finished."""
        generated = self._answers(policy)
        sequences = join_answers(self.prompts.ids, generated.answers)
        reference = self.reference.log_probabilities(
            sequences, [len(ids) for ids in self.prompts.ids], pad_id=self.tokenizer.pad_token_id
        )
        texts = decode_answers(self.tokenizer, generated.answers)
        # The mean of log policy - log reference over sampled answers estimates the KL per answer (estimator k1).
        kl = torch.stack([(p - q).sum() for p, q in zip(generated.log_probs, reference, strict=True)])
        numbers = {"kl": kl, "length": torch.tensor([float(len(answer)) for answer in generated.answers])}
        numbers["finished"] = torch.tensor(generated.finished).float()
        if self.score is not None:
            numbers["score"] = self.score(sequences, texts, self.prompts.metadata)
        gold_by_answer = self._gold_by_answer(sequences, texts)
        self._add_samples(step, texts, gold_by_answer, numbers)
        means = {name: float(values.mean()) for name, values in numbers.items()}
        return {**{name: _mean(values) for name, values in gold_by_answer.items() if _is_measured(values)}, **means}

    def _answers(self, policy: Any) -> Generated:
        return generate(
            policy,
            self.prompts.ids,
            max_new_tokens=self.max_new_tokens,
            end_ids=end_ids(self.tokenizer, policy),
            pad_id=self.tokenizer.pad_token_id,
            temperature=self.params.temperature,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _gold_by_answer(self, sequences: Sequence[Ids], texts: Sequence[str]) -> dict[str, list[float | None]]:
        """The gold reward and exact match of each answer; None for answers that cannot be verified."""
        pairs = list(zip(texts, self.prompts.metadata, strict=True))
        verifiable_answers = [(text, metadata) if gold.verifiable(metadata) else None for text, metadata in pairs]
        gold_by_answer: dict[str, list[float | None]] = {
            "gold": [None if one is None else float(gold.gold(*one)) for one in verifiable_answers],
            "exact_match": [None if one is None else float(gold.correct(*one)) for one in verifiable_answers],
        }
        if self._gold_score is not None:
            gold_by_answer["gold"] = list(self._gold_score(sequences, texts, self.prompts.metadata).tolist())
        return gold_by_answer

    def _add_samples(
        self,
        step: int,
        texts: Sequence[str],
        gold_by_answer: Mapping[str, list[float | None]],
        numbers: Mapping[str, Tensor],
    ) -> None:
        for i in range(min(self.params.num_samples, len(texts))):
            row = {"step": step, "prompt": self.prompts.metadata[i].get("text", ""), "answer": texts[i]}
            row |= {"gold": gold_by_answer["gold"][i], "kl": round(float(numbers["kl"][i]), 4)}
            if "score" in numbers:
                row["score"] = round(float(numbers["score"][i]), 4)
            self.samples.append(row)


def gold_scorer(name: str | None, tokenizer: Any) -> Scorer | None:
    """Return a function that scores answers by a reward model that is used for validation only; None without `name`."""
    if name is None:
        return None
    return scorer(load_model(name, tokenizer), 1.0, {}, tokenizer)


def join_answers(prompts: Sequence[Ids], answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each prompt followed by its answer."""
    return [[*map(int, prompt), *answer] for prompt, answer in zip(prompts, answers, strict=True)]


def decode_answers(tokenizer: Any, answers: Sequence[Sequence[int]]) -> list[str]:
    """The text of each answer, without its end token and what else the chat template puts around it."""
    return ChatTemplate.of(tokenizer).texts(answers)


def _is_measured(values: Sequence[float | None]) -> bool:
    return any(value is not None for value in values)


def _mean(values: Sequence[float | None]) -> float:
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured)
