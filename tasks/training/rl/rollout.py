"""Rollouts: the policy answers prompts, the answers are scored, and every token learns how good it was.

A batch costs one decoding pass (log-probabilities and values come with it), one forward of the reference and one of
the reward model; the updates cost three forwards each: 2 + 3 E in all, besides the reward model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch import distributed as dist

from tasks import gold
from tasks.answers import AnswerBatch, Ids
from tasks.generation import Generated, generate
from tasks.pairs import Prompts
from tasks.training.preferences import rewards
from tasks.training.preferences.held_out import decode, joined
from tasks.training.preferences.reference import Reference
from tasks.training.preferences.rewards import Scorer
from tasks.training.preferences.shared_prompts import collate_by_prompt
from tasks.training.rl import advantages
from tasks.training.rl.policy import PolicyWithValue
from tasks.training.rl.policy_losses import explained_variance

T = TypeVar("T")


class RewardParams(BaseModel, frozen=True, extra="forbid"):
    """How scores and KL become rewards, and rewards advantages. Details as in Huang et al. 2023 unless said."""

    kl_estimator: rewards.Estimator = "k1"
    kl_coef: rewards.KlCoef = rewards.KlCoef()
    normalize_scores: bool = Field(default=True, description="to mean 0, variance 1 on the reference's own answers")
    clip_scores: float | None = Field(default=5.0, gt=0, description="after normalizing")
    missing_end_penalty: float = Field(default=1.0, ge=0, description="for an answer that never came to its end")
    whiten_rewards: bool = Field(default=False, description="rewards of a rollout to variance 1, mean kept")
    whiten_advantages: bool = Field(default=True, description="advantages of a rollout to mean 0, variance 1")
    gamma: float = Field(default=1.0, gt=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)


@dataclass(frozen=True, slots=True)
class Rollout:
    """Answers and what each of their tokens learns from; all lists by answer, each tensor float32 [answer tokens]."""

    sequences: list[list[int]]
    prompt_lengths: list[int]
    log_probs: list[Tensor]
    reference: list[Tensor]
    values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]
    numbers: dict[str, float]  # for the step log

    def batch(self, rows: Sequence[int], pad_id: int, device: torch.device, dtype: torch.dtype) -> "RolloutBatch":
        """These answers as one padded batch with flat tensors beside it; `dtype` is the model's."""
        prompts = [self.sequences[r][: self.prompt_lengths[r]] for r in rows]
        answers = collate_by_prompt(
            prompts, [[self.sequences[r][self.prompt_lengths[r] :]] for r in rows], pad_id, device, dtype
        )

        def flat(by_answer: list[Tensor]) -> Tensor:
            return torch.cat([by_answer[r] for r in rows]).to(device)

        return RolloutBatch(
            answers,
            flat(self.log_probs),
            flat(self.reference),
            flat(self.values),
            flat(self.advantages),
            flat(self.returns),
            float(len(answers.targets)),
            self.numbers,
        )


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """A micro-batch of answer tokens; tensors float32 [tokens], in the order of `answers.targets`."""

    answers: AnswerBatch
    log_probs: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    weight: float
    numbers: Mapping[str, float]


@dataclass
class Normalizer:
    """Mean and standard deviation of the reference's own scores, taken from the first rollout (Ziegler 2019)."""

    mean: float = 0.0
    std: float = 1.0
    known: bool = False

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores in standard deviations from the mean of the first that came."""
        if not self.known:
            self.mean, self.known = float(scores.mean()), True
            self.std = max(float(scores.std(correction=0)), 1e-6)
        return (scores - self.mean) / self.std


@dataclass
class Collector:
    """Makes rollouts. `score` says how good an answer is; everything else is as in RewardParams."""

    model: PolicyWithValue
    reference: Reference
    score: Scorer
    tokenizer: Any
    params: RewardParams
    advantage: advantages.Kind
    group_size: int
    max_new_tokens: int
    temperature: float
    normalizer: Normalizer

    def collect(
        self, prompts: Prompts, generator: torch.Generator, kl_coef: float, part: tuple[int, int] = (0, 1)
    ) -> Rollout:
        """Answer each prompt `group_size` times and work out what each token learns from.

        `part`: (number, count) where each of `count` processes answers its share; all come to the same rollout.
        """
        prompts = prompts.select([i for i in range(len(prompts)) for _ in range(self.group_size)])
        chances = torch.rand((len(prompts), self.max_new_tokens), generator=generator)
        number, count = part
        mine = range(number, len(prompts), count)
        told = self._told(prompts.select(list(mine)), chances[number::count])
        got, reference, scores = told.merged(count) if count > 1 else told
        sequences, lengths = joined(prompts.ids, got.answers), [len(ids) for ids in prompts.ids]
        table = Table.of(got, reference)
        shaped = self._shaped(scores, torch.tensor(got.finished))
        gained, returns = self._advantages(table, shaped, kl_coef)
        numbers = self._numbers(table, scores, got, returns, kl_coef) | self._gold(got, prompts)
        by_answer = [table.rows(columns) for columns in (table.values, gained, returns)]
        return Rollout(sequences, lengths, got.log_probs, reference, by_answer[0], by_answer[1], by_answer[2], numbers)

    def _told(self, prompts: Prompts, chances: Tensor) -> "Told":
        """What the models say: the policy its answers, the reference and the critic of them, the reward model last."""
        got = self._answer(prompts.ids, chances)
        sequences, lengths = joined(prompts.ids, got.answers), [len(ids) for ids in prompts.ids]
        pad_id = self.tokenizer.pad_token_id
        reference = self.reference.log_probabilities(sequences, lengths, pad_id=pad_id, temperature=self.temperature)
        if self.model.critic == "own":
            got = replace(got, values=self.model.values_of(sequences, lengths, pad_id))
        return Told(got, reference, self.score(sequences, decode(self.tokenizer, got.answers), prompts.metadata))

    def _answer(self, prompts: Sequence[Ids], chances: Tensor) -> Generated:
        return generate(
            self.model.policy,
            prompts,
            max_new_tokens=self.max_new_tokens,
            end_ids=[self.tokenizer.eos_token_id],
            pad_id=self.tokenizer.pad_token_id,
            temperature=self.temperature,
            random_numbers=chances,
            value_head=self.model.decoding_head,
        )

    def _shaped(self, scores: Tensor, finished: Tensor) -> Tensor:
        scores = self.normalizer(scores) if self.params.normalize_scores else scores
        return rewards.shape_scores(scores, finished, self.params.clip_scores, self.params.missing_end_penalty)

    def _advantages(self, table: "Table", scores: Tensor, kl_coef: float) -> tuple[Tensor, Tensor]:
        """Advantages and returns, [answers, tokens] each."""
        p, mask = self.params, table.mask
        kl = rewards.kl_per_token(table.log_probs, table.reference, p.kl_estimator)
        paid = rewards.token_rewards(scores, kl, mask, kl_coef)
        if p.whiten_rewards:
            paid = advantages.whiten(paid, mask, shift_mean=False)
        returns = advantages.rewards_to_go(paid, mask, p.gamma)
        if self.advantage == "gae":
            gained, returns = advantages.gae(paid, table.values, mask, p.gamma, p.gae_lambda)
        elif self.advantage == "reinforce++":
            gained = returns
        else:
            by_group = advantages.grpo if self.advantage == "grpo" else advantages.rloo
            gained = by_group(paid.sum(1), self.group_size)[:, None] * mask
        return advantages.whiten(gained, mask) if p.whiten_advantages else gained, returns

    def _numbers(
        self, table: "Table", scores: Tensor, got: Generated, returns: Tensor, kl_coef: float
    ) -> dict[str, float]:
        kl = ((table.log_probs - table.reference) * table.mask).sum(1)
        numbers = {
            "score": float(scores.mean()),
            "kl": float(kl.mean()),
            "kl_coef": kl_coef,
            "answer_length": float(table.mask.sum(1).float().mean()),
            "finished": sum(got.finished) / len(got.finished),
        }
        if self.model.critic != "none":
            numbers["explained_variance"] = explained_variance(table.values[table.mask], returns[table.mask])
        return numbers

    def _gold(self, got: Generated, prompts: Prompts) -> dict[str, float]:
        """The mean gold reward of those answers that can be verified: for the log, nothing learns from it."""
        pairs = zip(decode(self.tokenizer, got.answers), prompts.metadata, strict=True)
        judged = [gold.gold(text, about) for text, about in pairs if gold.verifiable(about)]
        return {"gold": sum(judged) / len(judged)} if judged else {}


class Told(NamedTuple):
    """Answers, what the reference says of their tokens, and their scores [answers]."""

    got: Generated
    reference: list[Tensor]
    scores: Tensor

    def merged(self, count: int) -> "Told":
        """This process's answers and those of all others, which were dealt out in turn."""
        everywhere: list[Told] = [self] * count
        dist.all_gather_object(everywhere, self)
        got = [told.got for told in everywhere]
        values = [one.values for one in got if one.values is not None]
        generated = Generated(
            _in_turn([one.answers for one in got]),
            _in_turn([one.log_probs for one in got]),
            _in_turn(values) if values else None,
            _in_turn([one.finished for one in got]),
        )
        scores = torch.stack(_in_turn([list(told.scores) for told in everywhere]))
        return Told(generated, _in_turn([told.reference for told in everywhere]), scores)


def _in_turn(hands: Sequence[Sequence[T]]) -> list[T]:
    """One from each hand, again and again: the order before they were dealt out."""
    return [hand[turn] for turn in range(len(hands[0])) for hand in hands if turn < len(hand)]


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers per answer token as rectangles [answers, longest], padded with 0; `mask` says where tokens are."""

    log_probs: Tensor
    reference: Tensor
    values: Tensor
    mask: Tensor

    @staticmethod
    def of(got: Generated, reference: Sequence[Tensor]) -> "Table":
        """The rectangles of these answers; without values, zeros."""
        lengths = torch.tensor([len(answer) for answer in got.answers])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        log_probs, known = (torch.nn.utils.rnn.pad_sequence(list(rows), True) for rows in (got.log_probs, reference))
        found = torch.zeros(mask.shape) if got.values is None else torch.nn.utils.rnn.pad_sequence(got.values, True)
        return Table(log_probs, known, found, mask)

    def rows(self, columns: Tensor) -> list[Tensor]:
        """A rectangle as one tensor per answer, padding gone."""
        return list(torch.split(columns[self.mask], self.mask.sum(1).tolist()))
