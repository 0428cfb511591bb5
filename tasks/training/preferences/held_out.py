"""A policy's answers to validation prompts: gold, score, KL to the reference. Measured often, never trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from tasks import gold
from tasks.answers import Ids
from tasks.generation import Generated, generate
from tasks.pairs import Prompts
from tasks.training.preferences.reference import Reference
from tasks.training.preferences.rewards import Scorer, load_model, scorer


class HeldOutParams(BaseModel, frozen=True, extra="forbid"):
    """How a policy is measured during training."""

    num_prompts: int | None = Field(default=200, ge=1, description="validation prompts; none = all there are")
    temperature: float = Field(default=1.0, ge=0, description="0 = the likeliest answer")
    gold_model: str | None = Field(
        default=None, description="a reward model trained on other data, as gold where answers cannot be verified"
    )
    num_samples: int = Field(default=8, ge=0, description="answers of each evaluation that the report shows")


class HeldOut:
    """Answers `prompts` with the same random numbers every time, so that two policies differ by their weights alone."""

    def __init__(
        self, prompts: Prompts, tokenizer: Any, reference: Reference, score: Scorer | None, params: HeldOutParams,
        *, max_new_tokens: int, seed: int,
    ) -> None:  # fmt: skip
        self.prompts, self.tokenizer, self.reference = prompts.evenly_spaced(params.num_prompts), tokenizer, reference
        self.score, self.params, self.max_new_tokens, self.seed = score, params, max_new_tokens, seed
        self._gold_score = gold_scorer(params.gold_model, tokenizer)
        self.samples: list[dict[str, Any]] = []

    def measure(self, policy: Any, step: int) -> dict[str, float]:
        """gold (where any prompt can be verified), exact_match, score, kl (nats per answer), length, finished."""
        got = self._answers(policy)
        sequences = joined(self.prompts.ids, got.answers)
        reference = self.reference.log_probabilities(
            sequences, [len(ids) for ids in self.prompts.ids], pad_id=self.tokenizer.pad_token_id
        )
        texts = decode(self.tokenizer, got.answers)
        kl = torch.stack([(p - q).sum() for p, q in zip(got.log_probs, reference, strict=True)])
        numbers = {"kl": kl, "length": torch.tensor([float(len(answer)) for answer in got.answers])}
        numbers["finished"] = torch.tensor(got.finished).float()
        if self.score is not None:
            numbers["score"] = self.score(sequences, texts, self.prompts.metadata)
        verdicts = self._verdicts(sequences, texts)
        self._show(step, texts, verdicts, numbers)
        means = {name: float(values.mean()) for name, values in numbers.items()}
        return {**{name: _mean(values) for name, values in verdicts.items() if _any(values)}, **means}

    def _answers(self, policy: Any) -> Generated:
        return generate(
            policy,
            self.prompts.ids,
            max_new_tokens=self.max_new_tokens,
            end_ids=[self.tokenizer.eos_token_id],
            pad_id=self.tokenizer.pad_token_id,
            temperature=self.params.temperature,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _verdicts(self, sequences: Sequence[Ids], texts: Sequence[str]) -> dict[str, list[float | None]]:
        """What the gold measure says of each answer; None where it cannot tell."""
        pairs = list(zip(texts, self.prompts.metadata, strict=True))
        judged = [(text, about) if gold.verifiable(about) else None for text, about in pairs]
        verdicts: dict[str, list[float | None]] = {
            "gold": [None if one is None else float(gold.gold(*one)) for one in judged],
            "exact_match": [None if one is None else float(gold.correct(*one)) for one in judged],
        }
        if self._gold_score is not None:
            verdicts["gold"] = list(self._gold_score(sequences, texts, self.prompts.metadata).tolist())
        return verdicts

    def _show(
        self, step: int, texts: Sequence[str], verdicts: Mapping[str, list[float | None]], numbers: Mapping[str, Tensor]
    ) -> None:
        for i in range(min(self.params.num_samples, len(texts))):
            row = {"step": step, "prompt": self.prompts.metadata[i].get("text", ""), "answer": texts[i]}
            row |= {"gold": verdicts["gold"][i], "kl": round(float(numbers["kl"][i]), 4)}
            if "score" in numbers:
                row["score"] = round(float(numbers["score"][i]), 4)
            self.samples.append(row)


def gold_scorer(name: str | None, tokenizer: Any) -> Scorer | None:
    """The scores of another reward model than the one that trains; None where none is named. Raises BadModel."""
    if name is None:
        return None
    return scorer(load_model(name, tokenizer), 1.0, {}, tokenizer.pad_token_id)


def joined(prompts: Sequence[Ids], answers: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each prompt with its answer behind it."""
    return [[*map(int, prompt), *answer] for prompt, answer in zip(prompts, answers, strict=True)]


def decode(tokenizer: Any, answers: Sequence[Sequence[int]]) -> list[str]:
    """The text of each answer, without its end token."""
    texts: list[str] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return texts


def _any(values: Sequence[float | None]) -> bool:
    return any(value is not None for value in values)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)
