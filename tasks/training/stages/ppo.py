"""PPO: the policy answers prompts, a reward model scores the answers, and updates make better answers more probable.

The method is that of InstructGPT (Ouyang 2022, arXiv:2203.02155): a policy from sft, a frozen reference, the score of
the reward model minus a KL penalty per token, a value head, GAE (arXiv:1506.02438), clipped objectives (Schulman 2017,
arXiv:1707.06347) and, optionally, a pretraining loss (PPO-ptx). `advantage` replaces GAE by GRPO (arXiv:2402.03300),
RLOO (arXiv:2402.14740) or REINFORCE++ (arXiv:2501.03262), without a critic. A step is an update; a rollout has several.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from tasks import models
from tasks.answers import answer_logits, answer_states
from tasks.causal import attention, remembered
from tasks.causal.dropout import without_dropout
from tasks.causal.methods import GenerationParams
from tasks.causal.row_loss import row_loss
from tasks.causal.self_check import Needs
from tasks.errors import NothingLeft
from tasks.files import MANIFEST, read_json
from tasks.pairs import Prompts, read_prompts
from tasks.reports import Report, Timings
from tasks.training import adapters
from tasks.training.language.rows import PackedRows
from tasks.training.loop import data_use, stage_files
from tasks.training.loop.params import resolve_device
from tasks.training.loop.training_loop import run
from tasks.training.loop.work import Work
from tasks.training.parallel import processes
from tasks.training.parallel.precision import choose
from tasks.training.preference_params import PreferenceParams
from tasks.training.preferences import rewards
from tasks.training.preferences.guard import Guard, GuardParams
from tasks.training.preferences.order import Indices, micro_batches, step_indices
from tasks.training.preferences.reference import Reference
from tasks.training.preferences.rewards import Scorer, scorer
from tasks.training.preferences.validation import PolicyValidation, ValidationParams
from tasks.training.rl import advantages, policy_losses
from tasks.training.rl.policy import PolicyWithValue
from tasks.training.rl.rollout import Collector, Normalizer, RewardParams, Rollout, RolloutBatch

ENTROPY_TOKENS = 128  # tokens whose entropy is computed if it is only logged
SEEDS_PER_RUN = 1_000_003  # more than the rollouts of any run, so that runs with neighboring seeds share no seed


class Params(PreferenceParams, GenerationParams, frozen=True):
    """Params of PPO: rewards, rollouts, updates and validation, besides those of the training loop."""

    base: str | None = Field(
        None, description="Stage, model folder or hub name of the first policy; null is the stage sft."
    )
    reward_model: str | None = Field(
        None, description="Stage, model folder or hub name of the reward model; null is the stage reward."
    )
    reward_model_weight: float = Field(1.0, ge=0, description="Weight of its score; with 0 no reward model is loaded.")
    reward_functions: dict[str, float] = Field(
        {}, description="Reward functions with their weights: exact_match, num_characters or your own module:function."
    )
    prompt_sources: tuple[str, ...] | None = Field(
        None, description="Answer only prompts from these sources of ingestion; empty uses all, null those of the "
        "sources that have preferences, because the reward model knows only these.",
    )  # fmt: skip
    max_prompt_length: int = Field(256, ge=1, description="Maximum tokens of a prompt; longer prompts are not used.")
    max_new_tokens: int = Field(32, ge=1, description="Maximum tokens of an answer.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the answers in a rollout.")
    rollout_size: int = Field(128, ge=1, description="Prompts per rollout.")
    group_size: int = Field(1, ge=1, description="Answers to each prompt; grpo and rloo need at least 2.")
    num_epochs: int = Field(4, ge=1, description="Number of times that the answers of a rollout are used.")
    minibatch_size: int | None = Field(None, ge=1, description="Answers per update; null is the whole rollout.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Answers per forward and backward pass; null is the whole minibatch."
    )
    advantage: advantages.Kind = Field(
        "gae", description="Advantage estimator: gae needs a critic; grpo, rloo and reinforce++ need none."
    )
    rewards: RewardParams = Field(
        RewardParams(), description="How scores and KL become rewards, and rewards become advantages."
    )
    clip_range: float = Field(
        0.2, gt=0, description="Change of a token's probability ratio beyond which the policy loss has no gradient."
    )
    max_update_kl: float | None = Field(
        None, gt=0, description="End the use of a rollout when the policy is farther than this from the policy that "
        "generated it, in nats per token; null disables it.",
    )  # fmt: skip
    loss_kl_coef: float = Field(
        0.0, ge=0, description="Weight of the KL to the reference (estimator k3) in the loss itself, as in GRPO."
    )
    entropy_coef: float = Field(0.0, ge=0, description="Weight of the entropy bonus; the entropy is in nats per token.")
    critic: Literal["trunk", "detached", "own"] = Field(
        "trunk", description="Origin of the values for gae: a head on the policy's trunk that also trains the trunk "
        "(trunk) or not (detached), or a model of its own (own).",
    )  # fmt: skip
    value_coef: float = Field(0.1, ge=0, description="Weight of the value loss.")
    value_clip_range: float | None = Field(
        0.2, gt=0, description="Change of a value beyond which the value loss has no gradient; null disables clipping."
    )
    value_scale: float = Field(
        10.0, gt=0, description="Factor on the output of the value head, so that it learns faster than the policy."
    )
    ptx_coef: float = Field(
        0.0, ge=0, description="Weight of the next-token loss on ptx_data (PPO-ptx); 0 disables it."
    )
    ptx_data: Literal["documents", "conversations"] = Field(
        "documents", description="Training data that the policy should not forget."
    )
    ptx_rows: int = Field(8, ge=1, description="Rows of ptx_data per update.")
    ptx_length: int = Field(
        256, ge=8, description="Tokens per row of documents; rows of conversations have their own length."
    )
    validation: ValidationParams = Field(
        ValidationParams(), description="How answers of the policy to validation prompts are measured."
    )
    guard: GuardParams = Field(
        GuardParams(), description="When over-optimization ends the run, and which weights are returned."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.advantage in ("grpo", "rloo") and self.group_size < 2:
            raise ValueError(
                f"advantage {self.advantage} compares answers to the same prompt; group_size must be 2 or more, "
                f"not {self.group_size}"
            )
        if not self.reward_model_weight and not self.reward_functions:
            raise ValueError("there is no reward: set reward_model_weight above 0, or add reward_functions")
        return self

    def sources(self) -> tuple[str, ...] | None:
        """The argument `sources` of read_prompts: without a reward model, null means all sources."""
        return () if self.prompt_sources is None and not self.reward_model_weight else self.prompt_sources


class PpoWork(Work):
    """Rollouts, batches, loss and evaluation of PPO for the training loop.

    Checkpoints are written only between two rollouts, so that a checkpoint need not contain the answers of a rollout.
    """

    model: PolicyWithValue

    def __init__(
        self,
        model: PolicyWithValue,
        collector: Collector,
        train: Prompts,
        validation: PolicyValidation | None,
        documents: PackedRows | None,
        params: Params,
        notes: Sequence[str] = (),
    ) -> None:
        self.notes = list(notes)
        self.model, self.collector, self.train, self.validation = model, collector, train, validation
        self.documents, self.params = documents, params
        self.guard = Guard(params.guard, model.policy)
        self.kl_coef, self.num_rollouts = params.rewards.kl_coef.initial, 0
        self._pending: list[list[RolloutBatch]] = []
        self._step, self._kl_exceeded = 0, False

    def batches(self, step: int) -> Sequence[RolloutBatch]:
        """The micro-batches of the next update, from a new rollout if all updates of the last one are done."""
        if step == 0:
            with self.unsharded():
                self.evaluate(0)
        # Every process must start the new rollout at the same step, hence `any_rank`.
        (kl_exceeded,), self._kl_exceeded = processes.any_rank(self._kl_exceeded), False
        if kl_exceeded or not self._pending:
            with self.unsharded():
                self._pending = self._updates(self._rollout())
        self._step = step
        return self._pending.pop(0)

    def _rollout(self) -> Rollout:
        # Prompts and random numbers depend on (seed, number of the rollout) only: a resumed run draws the same ones.
        number, seed = self.num_rollouts, self.params.seed
        prompts = self.train.select(step_indices(len(self.train), self.params.rollout_size, number, seed).tolist())
        generator = torch.Generator().manual_seed(seed * SEEDS_PER_RUN + number)
        rollout = self.collector.collect(prompts, generator, self.kl_coef, self._part())
        self.kl_coef = self.params.rewards.kl_coef.next(self.kl_coef, rollout.numbers["kl"], len(rollout.sequences))
        self.num_rollouts += 1
        return rollout

    def _part(self) -> tuple[int, int]:
        """(number, count) of the part of the answers that this process generates; (0, 1) if there are too few."""
        alone = self.strategy is None or self.params.rollout_size * self.params.group_size < self.strategy.data_shard[1]
        return (0, 1) if alone or self.strategy is None else self.strategy.data_shard

    def _updates(self, rollout: Rollout) -> list[list[RolloutBatch]]:
        """The minibatches of `num_epochs` epochs over the rollout, each epoch in another order, as micro-batches.

        Answers that do not fill a minibatch at the end of an epoch are left out of this epoch; the order changes.
        """
        count = len(rollout.sequences)
        size = min(self.params.minibatch_size or count, count)
        generator = np.random.default_rng([self.params.seed, self.num_rollouts])
        orders = [generator.permutation(count) for _ in range(self.params.num_epochs)]
        parts = [order[start : start + size] for order in orders for start in range(0, count - size + 1, size)]
        return [self._micro_batches(rollout, part) for part in parts]

    def _micro_batches(self, rollout: Rollout, rows: Indices) -> list[RolloutBatch]:
        policy, pad_id = self.model.policy, self.collector.tokenizer.pad_token_id
        lengths = np.array([len(rollout.sequences[row]) for row in rows])
        parts = micro_batches(rows, lengths, self.params.micro_batch_size)
        return [rollout.batch(policy, part.tolist(), pad_id) for part in parts]

    def loss(self, batch: RolloutBatch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The clipped policy loss plus the weighted value loss, entropy bonus, KL to the reference and ptx loss."""
        p = self.params
        states = answer_states(self.model.policy, batch.answers)
        logits = answer_logits(self.model.policy, states).float()
        log_p = torch.log_softmax(logits if p.temperature == 1 else logits / p.temperature, dim=-1)
        log_probs = log_p.gather(1, batch.answers.targets[:, None]).squeeze(1)
        losses, clipped = policy_losses.policy_loss(log_probs, batch.log_probs, batch.advantages, p.clip_range)
        entropy = self._entropy(log_p)
        numbers: dict[str, float | Tensor] = {"policy_loss": losses.detach().mean(), "entropy": entropy.detach()}
        # How far the updates moved the policy from the one that generated the answers, in nats per token. The arguments
        # are swapped, because the answers were sampled from the old policy: this is KL(old || new).
        update_kl = rewards.kl_per_token(batch.log_probs, log_probs.detach(), "k3").mean()
        numbers |= {"clip_share": clipped.float().mean(), "update_kl": update_kl, **batch.numbers}
        total = losses.mean() - p.entropy_coef * entropy
        for name, coef, part in self._other_losses(batch, states, log_probs):
            total = total + coef * part
            numbers[name] = part.detach()
        self._kl_exceeded = self._kl_exceeded or (p.max_update_kl is not None and float(update_kl) > p.max_update_kl)
        return total, numbers

    def _entropy(self, log_p: Tensor) -> Tensor:
        """Mean entropy in nats: of all tokens if it is part of the loss, else of some, because it is expensive."""
        if self.params.entropy_coef:
            return policy_losses.entropy(log_p).mean()
        return policy_losses.entropy(log_p.detach()[:: max(1, len(log_p) // ENTROPY_TOKENS)]).mean()

    def _other_losses(self, batch: RolloutBatch, states: Tensor, log_probs: Tensor) -> list[tuple[str, float, Tensor]]:
        """(name, coefficient, loss) of each further part of the loss that the params enable."""
        p = self.params
        losses: list[tuple[str, float, Tensor]] = []
        values = self.model.values(batch.answers, states)
        if values is not None:
            loss = policy_losses.value_loss(values, batch.values, batch.returns, p.value_clip_range)
            losses.append(("value_loss", p.value_coef, loss.mean()))
        if p.loss_kl_coef:
            kl = rewards.kl_per_token(log_probs, batch.reference, "k3")
            losses.append(("reference_kl", p.loss_kl_coef, kl.mean()))
        if self.documents is not None:
            losses.append(("ptx_loss", p.ptx_coef, self._ptx_loss(self.documents)))
        return losses

    def _ptx_loss(self, documents: PackedRows) -> Tensor:
        (rows,) = documents.batches(self._step)
        policy = self.model.policy
        loss, _ = row_loss(policy, rows.ids, rows.positions, rows.targets)
        return loss

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Gold, score, KL and other measures of answers to validation prompts."""
        if self.validation is None:
            return {}
        numbers = self.validation.measure(self.model.policy, step)
        self.guard.observe(step, numbers)
        return {f"validation_{name}": value for name, value in numbers.items()}

    def may_checkpoint(self, step: int) -> bool:
        """Whether all updates of the last rollout are done, because checkpoints do not contain rollouts."""
        return not self._pending or (self._kl_exceeded and processes.count() == 1)

    def stop(self) -> str | None:
        """The reason of the guard to end the run, if it has one."""
        return self.guard.stop_reason

    def state_dict(self) -> dict[str, Any]:
        """KL coefficient, normalization of scores, number of rollouts, state of the guard, and answers shown so far."""
        normalizer = self.collector.normalizer
        return {
            "kl_coef": self.kl_coef,
            "num_rollouts": self.num_rollouts,
            "normalizer": [normalizer.mean, normalizer.std, normalizer.is_set],
            "guard": self.guard.state_dict(),
            "samples": self.validation.samples if self.validation else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.kl_coef, self.num_rollouts = state["kl_coef"], state["num_rollouts"]
        self.collector.normalizer = Normalizer(*state["normalizer"])
        self.guard.load_state_dict(state["guard"])
        if self.validation is not None:
            self.validation.samples = list(state["samples"])


def train(params: Params, data: Path, checkpoints: Path, timings: Timings, name: str = "ppo") -> Report:
    """Train on data/tokens/prompts with data/models/reward and save data/models/<name>.

    Raises BadInput, BadModel, NothingLeft.
    """
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = stage_files.load_tokenizer(tokens, data)
    with timings.measure("load"):
        work = build(params, data, tokenizer)
    with timings.measure("steps"), attention.packed(work.model.policy), without_dropout(work.model):
        log = run(work, params, checkpoints, name, timings)
    work.guard.restore_best()
    timings.values["answers_per_second"] = (
        work.num_rollouts * params.rollout_size * params.group_size / max(timings.values["steps"], 1e-9)
    )
    counts, notes, tables = _report_parts(work)
    base = stage_files.base_model(params.base, "sft", data)
    policy = work.model.policy
    report = stage_files.finish(name, params, policy, tokenizer, log, data, timings, base, counts, notes)
    report.tables |= tables
    per_step = work.num_rollouts * params.rollout_size / max(1, report.counts["steps"])
    limit = f"max_prompt_length ({params.max_prompt_length} tokens)"
    use = data_use.DataUse("prompts", len(work.train), per_step, work.train.num_too_long, limit)
    data_use.describe(report, use, params)
    return report


def build(params: Params, data: Path, tokenizer: Any) -> PpoWork:
    """Load the prompts and models of PPO from `data`, as `params` say, and connect them."""
    tokens = stage_files.tokens_folder(params.data, data)
    train = read_prompts(tokens / "prompts/train", params.max_prompt_length, params.sources())
    base = stage_files.base_model(params.base, "sft", data)
    policy, own = models.load_causal(base)
    models.fit_vocabulary(policy, own, tokenizer, base)
    policy = adapters.attach(policy, params.adapter, params.seed)
    notes = remembered.prepare(policy, tokenizer, _needs(params))
    device = resolve_device(params.device)
    dtype = choose(params.precision, device)
    policy.to(device)
    reference = Reference(policy, dtype)  # copies the policy before its first update
    reward_model = _reward_model(params, data, tokenizer, device, dtype)
    functions, packages = params.reward_functions, params.rewards.packages
    score = scorer(reward_model, params.reward_model_weight, functions, tokenizer, packages)
    critic = params.critic if params.advantage == "gae" else "none"
    model = PolicyWithValue(policy, critic, params.value_scale, reward_model)
    collector = Collector(
        model, reference, score, tokenizer, params.rewards, params.advantage, params.group_size,
        params.max_new_tokens, params.temperature, Normalizer(),
    )  # fmt: skip
    return PpoWork(
        model, collector, train, _validation(params, tokens, tokenizer, reference, score),
        _documents(params, tokens, tokenizer), params, notes,
    )  # fmt: skip


def _needs(params: Params) -> Needs:
    packing: Literal["auto"] | None = "auto" if params.ptx_coef else None
    length, has_value_head = params.max_prompt_length + params.max_new_tokens, params.advantage == "gae"
    return Needs(packing, packing, params.pairs, params.generation, length, states=has_value_head)


def _reward_model(params: Params, data: Path, tokenizer: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not params.reward_model_weight:
        return None
    name = stage_files.base_model(params.reward_model, "reward", data)
    return rewards.load_model(name, tokenizer).to(device, dtype)


def _validation(
    params: Params, tokens: Path, tokenizer: Any, reference: Reference, score: Scorer
) -> PolicyValidation | None:
    try:
        prompts = read_prompts(tokens / "prompts/validation", params.max_prompt_length, params.sources())
    except NothingLeft:
        return None
    return PolicyValidation(
        prompts,
        tokenizer,
        reference,
        score,
        params.validation,
        max_new_tokens=params.max_new_tokens,
        seed=params.seed,
    )


def _documents(params: Params, tokens: Path, tokenizer: Any) -> PackedRows | None:
    if not params.ptx_coef:
        return None
    packed = params.ptx_data == "conversations"
    length = int(read_json(tokens / MANIFEST)["sequence_length"]) if packed else params.ptx_length
    sizes = length, params.ptx_rows, params.ptx_rows, params.seed
    return PackedRows.open(tokens / params.ptx_data / "train", *sizes, tokenizer)


def _report_parts(work: PpoWork) -> tuple[dict[str, int], list[str], dict[str, list[dict[str, Any]]]]:
    """Counts, notes and tables for the report."""
    answers = work.num_rollouts * work.params.rollout_size * work.params.group_size
    counts = {"rollouts": work.num_rollouts, "answers": answers, "train_prompts": len(work.train)}
    counts |= {"too_long_prompts": work.train.num_too_long, **adapters.parameter_counts(work.model.policy)}
    if work.validation is None:
        note = "NOT GUARDED: there is no validation prompt; answers were scored by the reward only"
        return counts, [note, *work.notes], {}
    tables = {"samples": work.validation.samples, "curve": work.guard.history}
    return counts, [*work.guard.notes(), *work.notes], tables
