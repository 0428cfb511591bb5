"""DPO, IPO and KTO: the policy learns from preferences directly; the loss itself keeps it near the reference.

`loss`: sigmoid is DPO (Rafailov 2023, arXiv:2305.18290; with `label_smoothing` cDPO); ipo (Azar 2023,
arXiv:2310.12036); kto uses the answers of the pairs one by one (Ethayarajh 2024, arXiv:2402.01306). The reference's
log-probabilities are computed once and stored beside the checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from tasks import models
from tasks.answers import AnswerBatch, answer_logits, answer_states, token_log_probs
from tasks.errors import NothingLeft
from tasks.pairs import read_pairs, read_pairs_if_any, read_prompts
from tasks.reports import Report, Timings
from tasks.training import adapters
from tasks.training.language import attention
from tasks.training.loop import data_use, stage_files
from tasks.training.loop.params import resolve_device
from tasks.training.loop.training_loop import run
from tasks.training.loop.work import Work
from tasks.training.parallel.precision import choose
from tasks.training.preference_params import PairParams
from tasks.training.preferences import preference_losses
from tasks.training.preferences.guard import Guard, GuardParams
from tasks.training.preferences.order import micro_batches, step_indices
from tasks.training.preferences.reference import PairsWithReference, Reference, add_reference
from tasks.training.preferences.validation import PolicyValidation, ValidationParams


class Params(PairParams, frozen=True):
    """Params of DPO: base model, batches, loss and validation, besides those of the training loop."""

    loss: preference_losses.Kind = Field("sigmoid", description="Preference loss: sigmoid (DPO), ipo or kto.")
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
    desirable_weight: float = Field(
        1.0, gt=0, description="Weight of a chosen answer relative to a rejected one; used by the loss kto."
    )
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
    """One row per pair with its chosen and rejected answer and, for kto, the answer to another prompt.

    reference: log p of these answers under the reference, [2 or 3, pairs]. weight: the number of pairs.
    """

    answers: AnswerBatch
    reference: Tensor
    weight: float


class DpoWork(Work):
    """Batches, loss and evaluation of DPO for the training loop."""

    model: Any

    def __init__(
        self, model: nn.Module, train: PairsWithReference, validation: PairsWithReference | None,
        policy_validation: PolicyValidation | None, params: Params, pad_id: int,
    ) -> None:  # fmt: skip
        self.model, self.train, self.validation, self.policy_validation = model, train, validation, policy_validation
        self.params, self.pad_id = params, pad_id
        self.guard = Guard(params.guard, model)
        self._lengths = train.pairs.lengths()

    def batches(self, step: int) -> Sequence[Batch]:
        """The pairs of this step in micro-batches. The order depends on the seed only."""
        # The state before the first update is the first point of the guard's curve. `unsharded` gathers the weights.
        if step == 0 and self.policy_validation is not None:
            with torch.no_grad(), self.unsharded():
                self.evaluate(0)
        indices = step_indices(len(self.train.pairs), self.params.global_batch_size, step, self.params.seed)
        parts = micro_batches(indices, self._lengths[indices], self.params.micro_batch_size)
        return [self._batch(self.train, part.tolist()) for part in parts]

    def _batch(self, source: PairsWithReference, indices: Sequence[int]) -> Batch:
        device = next(self.model.parameters()).device
        answers = source.batch(indices, self.pad_id, device, self.model.dtype)
        reference = torch.from_numpy(source.reference[:, indices]).to(device)
        return Batch(answers, reference, float(len(indices)))

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The loss of `params.loss`, and the implicit rewards beta * log-ratio of chosen and rejected answers.

        Both rewards are logged, because the margin can grow while the log-probability of chosen answers falls.
        """
        log_probs = token_log_probs(
            answer_logits(self.model, answer_states(self.model, batch.answers)), batch.answers.targets
        )
        kinds = len(batch.reference)
        sums = batch.answers.sum_by_answer(log_probs).view(-1, kinds).T
        lengths = batch.answers.lengths.view(-1, kinds).T
        ratios = (sums - batch.reference) / (lengths if self.params.per_token else 1)
        chosen, rejected = ratios[0], ratios[1]  # log-ratios to the reference, [pairs]; both are 0 before training
        losses = self._losses(chosen, rejected, ratios[2:])
        nll = -(sums[0] / lengths[0]).mean()
        beta, margin = self.params.beta, (chosen - rejected).detach()
        return losses.mean() + self.params.chosen_nll_coef * nll, {
            "accuracy": (margin > 0).float().mean(),
            "margin": beta * margin.mean(),
            "chosen_reward": beta * chosen.detach().mean(),
            "rejected_reward": beta * rejected.detach().mean(),
            "chosen_log_prob": -nll.detach(),
        }

    def _losses(self, chosen: Tensor, rejected: Tensor, mismatched: Tensor) -> Tensor:
        p = self.params
        if p.loss == "sigmoid":
            return preference_losses.dpo_loss(chosen, rejected, p.beta, p.label_smoothing)
        if p.loss == "ipo":
            return preference_losses.ipo_loss(chosen, rejected, p.beta)
        # KTO compares each answer with the KL of policy and reference, estimated on answers to other prompts. The
        # estimate has no gradient and is at least 0, as a KL is (arXiv:2402.01306, section 4.1).
        ratios = torch.cat((chosen, rejected))
        desirable = torch.arange(len(ratios), device=ratios.device) < len(chosen)
        kl = mismatched.detach().mean().clamp(min=0)
        return preference_losses.kto_loss(ratios, desirable, kl, p.beta, p.desirable_weight)

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
        count = min(len(self.validation.pairs), self.params.validation_pairs or len(self.validation.pairs))
        totals: dict[str, float] = {}
        for start in range(0, count, self.params.global_batch_size):
            indices = range(start, min(start + self.params.global_batch_size, count))
            loss, numbers = self.loss(self._batch(self.validation, list(indices)))
            for name, value in {"loss": loss, **numbers}.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(indices) / count
        return totals

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
    device = resolve_device(params.device)
    dtype = choose(params.precision, device)
    model.to(device)
    with timings.measure("reference"), attention.packed(model):
        train_pairs, validation = (
            _read_with_reference(model, dtype, tokens, split, params, checkpoints, tokenizer.pad_token_id)
            for split in ("train", "validation")
        )
    assert train_pairs is not None
    model = adapters.attach(model, params.adapter, params.seed)
    work = DpoWork(
        model,
        train_pairs,
        validation,
        _validation(model, dtype, tokens, params, tokenizer),
        params,
        tokenizer.pad_token_id,
    )
    with timings.measure("steps"), attention.packed(model):
        log = run(work, params, checkpoints, name, timings)
    work.guard.restore_best()
    counts, notes, tables = _report_parts(work)
    report = stage_files.finish(name, params, model, tokenizer, log, data, timings, base, counts, notes)
    report.tables |= tables
    pairs = train_pairs.pairs
    use = data_use.DataUse("pairs", len(pairs), params.global_batch_size, pairs.num_too_long, "max_length")
    data_use.describe(report, use, params)
    return report


def _read_with_reference(
    model: Any, dtype: torch.dtype, tokens: Path, split: str, params: Params, checkpoints: Path, pad_id: int
) -> PairsWithReference | None:
    read = read_pairs if split == "train" else read_pairs_if_any
    split_pairs = read(tokens / "preferences" / split, params.max_length)
    if split_pairs is None:
        return None
    return add_reference(
        split_pairs, model, dtype, checkpoints / f"reference-{split}.npy", pad_id, params.loss == "kto"
    )


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


def _report_parts(work: DpoWork) -> tuple[dict[str, int], list[str], dict[str, list[dict[str, Any]]]]:
    """Counts, notes and tables for the report."""
    counts = {"train_pairs": len(work.train.pairs), "too_long_pairs": work.train.pairs.num_too_long}
    counts |= adapters.parameter_counts(work.model)
    if work.policy_validation is None:
        return (
            counts,
            ["NOT GUARDED: there is no validation prompt, so the answers of the policy were not measured"],
            {},
        )
    tables = {"samples": work.policy_validation.samples, "curve": work.guard.history}
    return counts, [f"dpo: {note}" for note in work.guard.notes()], tables
