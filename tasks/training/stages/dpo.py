"""DPO, IPO and KTO: the policy learns from preferences directly; the loss itself keeps it near the reference.

`loss`: sigmoid is DPO (Rafailov 2023, arXiv:2305.18290; with `label_smoothing` cDPO); ipo (Azar 2023,
arXiv:2310.12036); kto uses the answers of the pairs one by one (Ethayarajh 2024, arXiv:2402.01306). The reference's
log-probabilities are computed once and stored beside the checkpoints.
"""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tasks import models
from tasks.answers import AnswerBatch, answer_logits, answer_states, token_log_probs
from tasks.causal import attention, remembered
from tasks.causal.dropout import without_dropout
from tasks.causal.methods import GenerationParams
from tasks.causal.self_check import Needs
from tasks.errors import NothingLeft
from tasks.pairs import (
    JudgedAnswers,
    Pairs,
    read_judged,
    read_judged_if_any,
    read_pairs,
    read_pairs_if_any,
    read_prompts,
    unused_unpaired,
)
from tasks.reports import Report, Timings
from tasks.training import adapters
from tasks.training.loop import data_use, stage_files
from tasks.training.loop.params import resolve_device
from tasks.training.loop.training_loop import run
from tasks.training.loop.work import Work
from tasks.training.parallel.precision import choose
from tasks.training.preference_params import PairParams
from tasks.training.preferences import preference_losses
from tasks.training.preferences.guard import Guard, GuardParams
from tasks.training.preferences.order import Indices, micro_batches, step_indices, used_indices
from tasks.training.preferences.reference import Reference, Rows, WithReference, add_reference
from tasks.training.preferences.validation import PolicyValidation, ValidationParams

MIN_BALANCE, MAX_BALANCE = 0.9, 1.5  # weighted good answers / weighted bad answers; 1 to 4/3 with some tolerance


class Params(PairParams, GenerationParams, frozen=True):
    """Params of DPO: base model, batches, loss and validation, besides those of the training loop."""

    global_batch_size: int = Field(64, ge=1, description="Pairs per step; with the loss kto, answers per step.")
    loss: preference_losses.Kind = Field(
        "sigmoid", description="Preference loss: sigmoid (DPO) and ipo use pairs; kto uses answers one by one, also "
        "those that were judged alone.",
    )  # fmt: skip
    beta: float = Field(
        0.1, gt=0, description="Strength of the KL constraint: a larger beta keeps the policy nearer to the reference."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Assumed share of pairs in which chosen and rejected are confused; used by the "
        "loss sigmoid.",
    )  # fmt: skip
    per_token: bool = Field(
        False, description="Whether log-ratios are means per token instead of sums, as the authors of IPO advise."
    )
    chosen_nll_coef: float = Field(
        0.0, ge=0, description="Weight of the cross-entropy of chosen answers, in nats per token (arXiv:2404.19733)."
    )
    desirable_weight: float = Field(1.0, gt=0, description="Weight of good answers; used by the loss kto.")
    undesirable_weight: float = Field(
        1.0, gt=0, description="Weight of bad answers; used by the loss kto. Its authors advise weights with which the "
        "weighted number of good answers is 1 to 4/3 times that of bad ones.",
    )  # fmt: skip
    max_new_tokens: int = Field(32, ge=1, description="Maximum tokens of an answer that is generated for validation.")
    prompt_sources: tuple[str, ...] | None = Field(
        None, description="Measure only on prompts from these sources of ingestion; empty uses all, null those of the "
        "sources that have preferences.",
    )  # fmt: skip
    validation_pairs: int | None = Field(
        500, ge=1, description="Maximum number of validation pairs per evaluation; null uses all."
    )
    validation: ValidationParams = Field(
        ValidationParams(), description="How answers of the policy to validation prompts are measured."
    )
    guard: GuardParams = Field(
        GuardParams(), description="When over-optimization ends the run, and which weights are returned."
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """One row per pair with its chosen and rejected answer or, for kto, per answer with an answer to another prompt.

    reference: log p of these answers under the reference, [2, rows]. weight: the number of rows. is_good: bool [rows],
    for kto only.
    """

    answers: AnswerBatch
    reference: Tensor
    weight: float
    is_good: Tensor | None = None


TrainingAnswers = WithReference[Pairs] | WithReference[JudgedAnswers]


class DpoWork(Work):
    """Batches, loss and evaluation of DPO for the training loop."""

    model: Any

    def __init__(
        self, model: nn.Module, train: TrainingAnswers, validation: TrainingAnswers | None,
        policy_validation: PolicyValidation | None, params: Params, pad_id: int,
    ) -> None:  # fmt: skip
        self.model, self.train, self.validation, self.policy_validation = model, train, validation, policy_validation
        self.params, self.pad_id = params, pad_id
        self.guard = Guard(params.guard, model)
        self._lengths = train.rows.lengths()

    def batches(self, step: int) -> Sequence[Batch]:
        """The pairs of this step in micro-batches. The order depends on the seed only."""
        # The state before the first update is the first point of the guard's curve. `unsharded` gathers the weights.
        if step == 0 and self.policy_validation is not None:
            with torch.no_grad(), self.unsharded():
                self.evaluate(0)
        indices = step_indices(len(self.train.rows), self.params.global_batch_size, step, self.params.seed)
        parts = micro_batches(indices, self._lengths[indices], self.params.micro_batch_size)
        return [self._batch(self.train, part.tolist()) for part in parts]

    def _batch(self, source: TrainingAnswers, indices: Sequence[int]) -> Batch:
        device = next(self.model.parameters()).device
        answers = source.batch(self.model, indices, self.pad_id)
        reference = torch.from_numpy(source.reference[:, indices]).to(device)
        rows = source.rows
        is_good = torch.from_numpy(rows.is_good[indices]).to(device) if isinstance(rows, JudgedAnswers) else None
        return Batch(answers, reference, float(len(indices)), is_good)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss of `params.loss`, and the implicit rewards beta * log-ratio of chosen and rejected answers.

        Both rewards are logged, because the margin can grow while the log-probability of chosen answers falls.
        """
        sums, lengths = self._answer_log_probs(batch)
        if batch.is_good is not None:
            return self._kto_loss(sums, lengths, batch.reference, batch.is_good)
        ratios = (sums - batch.reference) / (lengths if self.params.per_token else 1)
        chosen, rejected = ratios[0], ratios[1]  # log-ratios to the reference, [pairs]; both are 0 before training
        losses = self._pair_losses(chosen, rejected)
        nll = -(sums[0] / lengths[0]).mean()
        beta, margin = self.params.beta, (chosen - rejected).detach()
        return losses.mean() + self.params.chosen_nll_coef * nll, {
            "accuracy": (margin > 0).float().mean(),
            "margin": beta * margin.mean(),
            "chosen_reward": beta * chosen.detach().mean(),
            "rejected_reward": beta * rejected.detach().mean(),
            "chosen_log_prob": -nll.detach(),
        }

    def _answer_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """log p of both answers of each row, and their numbers of tokens: [2, rows] each."""
        log_probs = token_log_probs(
            answer_logits(self.model, answer_states(self.model, batch.answers)), batch.answers.targets
        )
        return batch.answers.sum_by_answer(log_probs).view(-1, 2).T, batch.answers.lengths.view(-1, 2).T

    def _pair_losses(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        p = self.params
        if p.loss == "sigmoid":
            return preference_losses.dpo_loss(chosen, rejected, p.beta, p.label_smoothing)
        return preference_losses.ipo_loss(chosen, rejected, p.beta)

    def _kto_loss(
        self, sums: Tensor, lengths: Tensor, reference: Tensor, is_good: Tensor
    ) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """As `loss`. The first row of the tensors [2, rows] is of the judged answers, the second of the mismatched.

        An answer counts as accurate if its log-ratio is above the KL for a good answer, and below it for a bad one.
        """
        p = self.params
        ratios = (sums - reference) / (lengths if p.per_token else 1)
        # The KL of policy and reference, estimated on answers to other prompts. A KL is at least 0, but its estimate
        # may be negative (arXiv:2402.01306, section 4.1).
        kl = ratios[1].detach().mean().clamp(min=0)
        losses = preference_losses.kto_loss(ratios[0], is_good, kl, p.beta, p.desirable_weight, p.undesirable_weight)
        nll = -_mean_where(sums[0] / lengths[0], is_good)
        judged = ratios[0].detach()
        good, bad = (p.beta * _mean_where(judged, selected) for selected in (is_good, ~is_good))
        return losses.mean() + p.chosen_nll_coef * nll, {
            "accuracy": torch.where(is_good, judged > kl, judged < kl).float().mean(),
            "margin": good - bad,
            "chosen_reward": good,
            "rejected_reward": bad,
            "chosen_log_prob": -nll.detach(),
            "mismatched_kl": kl,
        }

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Loss and accuracy on validation pairs; gold, KL and other measures of answers to validation prompts."""
        numbers = self._on_pairs() if self.validation is not None else {}
        if self.policy_validation is not None:
            measures = self.policy_validation.measure(self.model, step)
            # DPO has no reward model. The margin is what it maximizes, so the guard observes it as the score.
            self.guard.observe(step, {"score": numbers.get("margin", 0.0), **measures})
            numbers |= measures
        return {f"validation_{name}": value for name, value in numbers.items()}

    @torch.no_grad()
    def _on_pairs(self) -> dict[str, float]:
        assert self.validation is not None
        count = min(len(self.validation.rows), self.params.validation_pairs or len(self.validation.rows))
        size = self.params.global_batch_size
        parts = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
        if isinstance(self.validation.rows, JudgedAnswers):
            return self._on_judged_answers(parts)
        totals: dict[str, float] = {}
        for indices in parts:
            loss, numbers = self.loss(self._batch(self.validation, indices))
            for name, value in {"loss": loss, **numbers}.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(indices) / count
        return totals

    def _on_judged_answers(self, parts: Sequence[Sequence[int]]) -> dict[str, float]:
        # All answers at once: the KL and the means of good and of bad answers are not means of those of the parts.
        assert self.validation is not None
        batches = [self._batch(self.validation, indices) for indices in parts]
        log_probs = [self._answer_log_probs(batch) for batch in batches]
        sums, lengths = (torch.cat(columns, 1) for columns in zip(*log_probs, strict=True))
        is_good = torch.cat([batch.is_good for batch in batches if batch.is_good is not None])
        loss, numbers = self._kto_loss(sums, lengths, torch.cat([b.reference for b in batches], 1), is_good)
        return {name: float(value) for name, value in {"loss": loss, **numbers}.items()}

    def state_dict(self) -> dict[str, Any]:
        """The evaluations and best weights of the guard, and the answers shown so far."""
        return {
            "guard": self.guard.state_dict(),
            "samples": self.policy_validation.samples if self.policy_validation else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.guard.load_state_dict(state["guard"])
        if self.policy_validation is not None:
            self.policy_validation.samples = list(state["samples"])

    def stop(self) -> str | None:
        """The reason of the guard to end the run, if it has one."""
        return self.guard.stop_reason


def train(params: Params, data: Path, checkpoints: Path, timings: Timings, name: str = "dpo") -> Report:
    """Train on data/tokens/preferences and save data/models/<name>. Raises BadInput, BadModel, NothingLeft."""
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = stage_files.load_tokenizer(tokens, data)
    base = stage_files.base_model(params.base, "sft", data)
    model, own = models.load_causal(base)
    models.fit_vocabulary(model, own, tokenizer, base)
    with timings.measure("self_check"):
        needs = Needs(pairs=params.pairs, generation=params.generation, max_length=params.max_length)
        self_check_notes = remembered.prepare(model, tokenizer, needs)
    device = resolve_device(params.device)
    dtype = choose(params.precision, device)
    model.to(device)
    with timings.measure("reference"), attention.packed(model):
        train_answers, validation = (
            _read_with_reference(model, dtype, tokens, split, params, checkpoints, tokenizer.pad_token_id)
            for split in ("train", "validation")
        )
    assert train_answers is not None
    model = adapters.attach(model, params.adapter, params.seed)
    if params.adapter is not None:
        with timings.measure("self_check"):
            self_check_notes = remembered.prepare(model, tokenizer, needs)
    work = DpoWork(
        model,
        train_answers,
        validation,
        _validation(model, dtype, tokens, params, tokenizer),
        params,
        tokenizer.pad_token_id,
    )
    with timings.measure("steps"), attention.packed(model), without_dropout(model):
        log = run(work, params, checkpoints, name, timings)
    work.guard.restore_best()
    counts, notes, tables = _report_parts(work, tokens)
    report = stage_files.finish(
        name, params, model, tokenizer, log, data, timings, base, counts, notes + self_check_notes
    )
    report.tables |= tables
    rows, unit = train_answers.rows, "answers" if params.loss == "kto" else "pairs"
    limit = f"max_length ({params.max_length} tokens)"
    use = data_use.DataUse(unit, len(rows), params.global_batch_size, rows.num_too_long, limit)
    data_use.describe(report, use, params)
    return report


def _read_with_reference(
    model: Any, dtype: torch.dtype, tokens: Path, split: str, params: Params, checkpoints: Path, pad_id: int
) -> TrainingAnswers | None:
    folder, path = tokens / "preferences" / split, checkpoints / f"reference-{split}.npy"

    def with_reference(rows: Rows) -> WithReference[Rows]:
        return add_reference(rows, model, dtype, path, pad_id, _used(rows, split, params))

    if params.loss == "kto":
        judged = (read_judged if split == "train" else read_judged_if_any)(folder, params.max_length)
        return None if judged is None else with_reference(judged)
    pairs = (read_pairs if split == "train" else read_pairs_if_any)(folder, params.max_length)
    return None if pairs is None else with_reference(pairs)


def _used(rows: Sized, split: str, params: Params) -> Indices:
    """The rows that a run reads: those of its steps, or the first `validation_pairs`."""
    if split == "train":
        return used_indices(len(rows), params.global_batch_size, params.steps, params.seed)
    return np.arange(min(len(rows), params.validation_pairs or len(rows)))


def _validation(
    model: Any, dtype: torch.dtype, tokens: Path, params: Params, tokenizer: Any
) -> PolicyValidation | None:
    try:
        validation_prompts = read_prompts(tokens / "prompts/validation", params.max_length, params.prompt_sources)
    except NothingLeft:
        return None
    return PolicyValidation(
        validation_prompts,
        tokenizer,
        Reference(model, dtype),
        None,
        params.validation,
        max_new_tokens=params.max_new_tokens,
        seed=params.seed,
    )


def _report_parts(work: DpoWork, tokens: Path) -> tuple[dict[str, int], list[str], dict[str, list[dict[str, Any]]]]:
    """Counts, notes and tables for the report."""
    counts, notes = _counts_of_judged(work) if work.params.loss == "kto" else _counts_of_pairs(work, tokens)
    counts |= adapters.parameter_counts(work.model)
    if work.policy_validation is None:
        note = "NOT GUARDED: there is no validation prompt, so the answers of the policy were not measured"
        return counts, [note, *notes], {}
    tables = {"samples": work.policy_validation.samples, "curve": work.guard.history}
    return counts, [*work.guard.notes(), *notes], tables


def _counts_of_pairs(work: DpoWork, tokens: Path) -> tuple[dict[str, int], list[str]]:
    pairs = work.train.rows
    counts = {"train_pairs": len(pairs), "too_long_pairs": pairs.num_too_long}
    reason = f"the loss {work.params.loss} compares the two answers of a pair"
    unused, notes = unused_unpaired(tokens / "preferences", "dpo", reason)
    return counts | unused, notes


def _counts_of_judged(work: DpoWork) -> tuple[dict[str, int], list[str]]:
    judged, p = work.train.rows, work.params
    assert isinstance(judged, JudgedAnswers)
    num_good = int(judged.is_good.sum())
    num_bad = len(judged) - num_good
    counts = {"train_answers": len(judged), "good_answers": num_good, "bad_answers": num_bad}
    counts |= {"unpaired_answers": judged.num_unpaired, "too_long_answers": judged.num_too_long}
    weighted = p.desirable_weight * num_good, p.undesirable_weight * num_bad
    if MIN_BALANCE <= weighted[0] / max(weighted[1], 1e-9) <= MAX_BALANCE:
        return counts, []
    note = (
        f"{num_good} good and {num_bad} bad answers are weighted {weighted[0]:g} : {weighted[1]:g}. The authors "
        "of KTO advise 1 : 1 to 4 : 3; set desirable_weight or undesirable_weight."
    )
    return counts, [note]


def _mean_where(values: Tensor, selected: Tensor) -> Tensor:
    """The mean of the selected values; 0 if none is selected."""
    return (values * selected).sum() / selected.sum().clamp(min=1)
