"""Rollouts: the policy answers prompts, the answers are scored, and every token gets an advantage.

One reward passes through four stages, each with its own name: `scores` [answers] from the reward model and functions;
`shaped_scores` [answers], normalized and clipped; `rewards` [answers, tokens], the shaped score at the last token minus
the KL penalty at each; `advantages` [answers, tokens], what the policy loss multiplies.

Cost in forward passes: one decoding pass (log-probabilities and values come with it) and one of the reference for each
rollout, then three for each of E epochs of updates (a backward pass costs two): 2 + 3 E, besides the reward model.
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
from tasks.causal.shared_prompts import collate_answers
from tasks.chat_templates import end_ids
from tasks.generation import Generated, generate
from tasks.pairs import Prompts
from tasks.training.preferences import rewards
from tasks.training.preferences.reference import Reference
from tasks.training.preferences.rewards import Scorer
from tasks.training.preferences.validation import decode_answers, join_answers
from tasks.training.rl import advantages
from tasks.training.rl.policy import PolicyWithValue
from tasks.training.rl.policy_losses import explained_variance

T = TypeVar("T")


class RewardParams(BaseModel, frozen=True, extra="forbid"):
    """How scores and KL become rewards, and rewards advantages.

    Defaults follow "The N Implementation Details of RLHF with PPO" (Huang et al. 2023).
    """

    kl_estimator: rewards.Estimator = Field(
        default="k1", description="Estimator of the KL divergence per token: k1, k2 or k3 (Schulman 2020)."
    )
    kl_coef: rewards.KlCoef = Field(default=rewards.KlCoef(), description="Weight of the KL penalty in the rewards.")
    normalize_scores: bool = Field(
        default=True,
        description="Whether scores are shifted and scaled so that those of the reference have mean 0 and variance 1.",
    )
    clip_scores: float | None = Field(
        default=5.0, gt=0, description="Bound on the absolute value of scores after normalization; null sets none."
    )
    missing_end_penalty: float = Field(
        default=1.0, ge=0, description="Subtracted from the score of an answer without an end token."
    )
    whiten_rewards: bool = Field(
        default=False, description="Whether the rewards of a rollout are scaled to variance 1; their mean is kept."
    )
    whiten_advantages: bool = Field(
        default=True, description="Whether the advantages of a rollout are scaled to mean 0 and variance 1."
    )
    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount factor of rewards per token.")
    gae_lambda: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Lambda of generalized advantage estimation: bias (0) against variance (1).",
    )
    packages: tuple[str, ...] = Field(
        default=(),
        description="Installed packages whose functions `reward_functions` may name, beside those of the project.",
    )


@dataclass(frozen=True, slots=True)
class Rollout:
    """Answers with everything that the losses need; all lists are by answer, each tensor float32 [answer tokens]."""

    sequences: list[list[int]]
    prompt_lengths: list[int]
    log_probs: list[Tensor]
    reference: list[Tensor]
    values: list[Tensor]
    advantages: list[Tensor]
    returns: list[Tensor]
    numbers: dict[str, float]  # means of the rollout, for the step log

    def batch(self, model: Any, rows: Sequence[int], pad_id: int) -> "RolloutBatch":
        """The answers with numbers `rows` as one micro-batch, as `model` reads them."""
        prompts = [self.sequences[r][: self.prompt_lengths[r]] for r in rows]
        answers = collate_answers(model, prompts, [[self.sequences[r][self.prompt_lengths[r] :]] for r in rows], pad_id)
        device = answers.ids.device

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
    """Mean and standard deviation of the scores of the first rollout (Ziegler 2019, arXiv:1909.08593).

    In the first rollout the policy still equals the reference. Later rollouts are not normalized by their own mean,
    because then a policy that improves would not get higher scores.
    """

    mean: float = 0.0
    std: float = 1.0
    is_set: bool = False

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores in standard deviations from the mean of the first scores that were passed."""
        if not self.is_set:
            self.mean, self.is_set = float(scores.mean()), True
            self.std = max(float(scores.std(correction=0)), 1e-6)
        return (scores - self.mean) / self.std


@dataclass
class Collector:
    """Makes rollouts. `score` gives each answer its score; `params` say how scores become advantages."""

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
        """Answer each prompt `group_size` times and compute the advantage of each token.

        part: (number of this process, number of processes). Each process answers every n-th prompt; then they exchange
        their answers, and all return the same rollout.
        """
        prompts = prompts.select([i for i in range(len(prompts)) for _ in range(self.group_size)])
        # Drawn for the whole rollout before it is divided: the answers do not depend on the number of processes.
        random_numbers = torch.rand((len(prompts), self.max_new_tokens), generator=generator)
        number, count = part
        local_prompts = prompts.select(range(number, len(prompts), count))
        scored = self._score_answers(local_prompts, random_numbers[number::count])
        generated, reference, scores = scored.gathered(count) if count > 1 else scored
        sequences = join_answers(prompts.ids, generated.answers)
        table = PaddedAnswers.of(generated, reference)
        # From here on every process computes the same numbers from the same answers.
        shaped_scores = self._shape_scores(scores, torch.tensor(generated.finished))
        token_advantages, returns = self._advantages(table, shaped_scores, kl_coef)
        numbers = self._numbers(table, scores, generated, returns, kl_coef) | self._mean_gold(generated, prompts)
        return Rollout(
            sequences,
            [len(ids) for ids in prompts.ids],
            generated.log_probs,
            reference,
            table.by_answer(table.values),
            table.by_answer(token_advantages),
            table.by_answer(returns),
            numbers,
        )

    def _score_answers(self, prompts: Prompts, random_numbers: Tensor) -> "ScoredAnswers":
        """Let the policy answer; then ask the reference, the critic and the reward model about the answers."""
        generated = self._answer(prompts.ids, random_numbers)
        sequences, lengths = join_answers(prompts.ids, generated.answers), [len(ids) for ids in prompts.ids]
        pad_id = self.tokenizer.pad_token_id
        reference = self.reference.log_probabilities(sequences, lengths, pad_id=pad_id, temperature=self.temperature)
        if self.model.critic == "own":  # other critics read the policy's states, so their values come from decoding
            generated = replace(generated, values=self.model.values_of(sequences, lengths, pad_id))
        texts = decode_answers(self.tokenizer, generated.answers)
        return ScoredAnswers(generated, reference, self.score(sequences, texts, prompts.metadata))

    def _answer(self, prompts: Sequence[Ids], random_numbers: Tensor) -> Generated:
        return generate(
            self.model.policy,
            prompts,
            max_new_tokens=self.max_new_tokens,
            end_ids=end_ids(self.tokenizer, self.model.policy),
            pad_id=self.tokenizer.pad_token_id,
            temperature=self.temperature,
            random_numbers=random_numbers,
            value_head=self.model.decoding_head,
        )

    def _shape_scores(self, scores: Tensor, finished: Tensor) -> Tensor:
        scores = self.normalizer(scores) if self.params.normalize_scores else scores
        return rewards.shape_scores(scores, finished, self.params.clip_scores, self.params.missing_end_penalty)

    def _advantages(self, table: "PaddedAnswers", shaped_scores: Tensor, kl_coef: float) -> tuple[Tensor, Tensor]:
        """Advantages and returns, each [answers, tokens]."""
        p, mask = self.params, table.mask
        # Rewards, not the loss, contain the KL penalty: PPO then also credits earlier tokens that led to a high KL.
        kl = rewards.kl_per_token(table.log_probs, table.reference, p.kl_estimator)
        token_rewards = rewards.token_rewards(shaped_scores, kl, mask, kl_coef)
        if p.whiten_rewards:
            token_rewards = advantages.whiten(token_rewards, mask, shift_mean=False)
        # The returns of estimators without a critic; GAE replaces them by its advantages plus the values.
        returns = advantages.rewards_to_go(token_rewards, mask, p.gamma)
        if self.advantage == "gae":
            token_advantages, returns = advantages.gae(token_rewards, table.values, mask, p.gamma, p.gae_lambda)
        elif self.advantage == "reinforce++":
            token_advantages = returns
        else:
            # grpo and rloo compare whole answers to the same prompt, so that all tokens of an answer get the same
            # advantage: the sum of its rewards, compared with the sums of the other answers.
            of_answers = advantages.grpo if self.advantage == "grpo" else advantages.rloo
            token_advantages = of_answers(token_rewards.sum(1), self.group_size)[:, None] * mask
        return advantages.whiten(token_advantages, mask) if p.whiten_advantages else token_advantages, returns

    def _numbers(
        self, table: "PaddedAnswers", scores: Tensor, generated: Generated, returns: Tensor, kl_coef: float
    ) -> dict[str, float]:
        """Means over the answers of the rollout, for the step log; `kl` is in nats per answer."""
        # Summed over the tokens: nats per answer, the unit of kl_coef.target and of the guard's max_kl.
        kl = ((table.log_probs - table.reference) * table.mask).sum(1)
        numbers = {
            "score": float(scores.mean()),
            "kl": float(kl.mean()),
            "kl_coef": kl_coef,
            "answer_length": float(table.mask.sum(1).float().mean()),
            "finished": sum(generated.finished) / len(generated.finished),
        }
        if self.model.critic != "none":
            numbers["explained_variance"] = explained_variance(table.values[table.mask], returns[table.mask])
        return numbers

    def _mean_gold(self, generated: Generated, prompts: Prompts) -> dict[str, float]:
        """The mean gold reward of the answers that can be verified. Nothing is trained on it."""
        # Only for the log, from which over-optimization can be seen between two evaluations.
        pairs = zip(decode_answers(self.tokenizer, generated.answers), prompts.metadata, strict=True)
        gold_rewards = [gold.gold(text, metadata) for text, metadata in pairs if gold.verifiable(metadata)]
        return {"gold": sum(gold_rewards) / len(gold_rewards)} if gold_rewards else {}


class ScoredAnswers(NamedTuple):
    """Answers, the reference's log-probabilities of their tokens, and their scores [answers]."""

    generated: Generated
    reference: list[Tensor]
    scores: Tensor

    def gathered(self, count: int) -> "ScoredAnswers":
        """The answers of all `count` processes, in the order of the prompts before they were divided."""
        parts: list[ScoredAnswers] = [self] * count
        dist.all_gather_object(parts, self)
        generated_parts = [part.generated for part in parts]
        values = [part.values for part in generated_parts if part.values is not None]
        generated = Generated(
            _interleave([part.answers for part in generated_parts]),
            _interleave([part.log_probs for part in generated_parts]),
            _interleave(values) if values else None,
            _interleave([part.finished for part in generated_parts]),
        )
        scores = torch.stack(_interleave([list(part.scores) for part in parts]))
        return ScoredAnswers(generated, _interleave([part.reference for part in parts]), scores)


def _interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """One item of each part in turn: the inverse of taking every n-th item. The first parts may be longer by one."""
    return [part[turn] for turn in range(len(parts[0])) for part in parts if turn < len(part)]


@dataclass(frozen=True, slots=True)
class PaddedAnswers:
    """Numbers per answer token as tensors [answers, longest answer], padded with 0; `mask` is True at tokens."""

    log_probs: Tensor
    reference: Tensor
    values: Tensor
    mask: Tensor

    @staticmethod
    def of(generated: Generated, reference: Sequence[Tensor]) -> "PaddedAnswers":
        """Pad the numbers of these answers; values that do not exist are zeros."""
        lengths = torch.tensor([len(answer) for answer in generated.answers])
        # pad_sequence pads with 0 on the right, so that padding adds nothing to sums over tokens.
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        policy_log_probs = torch.nn.utils.rnn.pad_sequence(generated.log_probs, True)
        reference_log_probs = torch.nn.utils.rnn.pad_sequence(list(reference), True)
        values = torch.zeros(mask.shape)
        if generated.values is not None:
            values = torch.nn.utils.rnn.pad_sequence(generated.values, True)
        return PaddedAnswers(policy_log_probs, reference_log_probs, values, mask)

    def by_answer(self, numbers: Tensor) -> list[Tensor]:
        """Numbers [answers, longest answer] as one tensor per answer, without padding."""
        return list(torch.split(numbers[self.mask], self.mask.sum(1).tolist()))
