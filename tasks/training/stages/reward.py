"""Reward model: a scalar head on sft's trunk, trained to score the chosen answer of a pair above the rejected one.

Bradley-Terry loss as in InstructGPT (Ouyang 2022, arXiv:2203.02155), all pairs of a ranked list in one batch. The head
reads the hidden state of the last token, the end token of the answer, and begins as N(0, 1 / (width + 1)) ("The N
Implementation Details of RLHF with PPO", Huang et al. 2023).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from tasks import models, reward_metrics
from tasks.answers import AnswerBatch, answer_rewards, evaluating
from tasks.pairs import Pairs, read_pairs, read_pairs_if_any
from tasks.reports import Report, Score, Timings
from tasks.training import adapters
from tasks.training.language import attention
from tasks.training.loop import stage_files
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tasks.training.loop.work import Work
from tasks.training.preferences.order import micro_batches, step_indices
from tasks.training.preferences.preference_losses import list_weights, ranking_loss
from tasks.training.preferences.shared_prompts import collate_by_prompt, ranked

PAIRS_PER_BATCH = 128  # pairs
MARGIN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Params(LoopParams, frozen=True, extra="forbid"):
    """Params of the reward model: the base model, the batches and the loss, besides those of the training loop."""

    base: str | None = Field(
        None, description="Stage, model folder or hub name of the model to start from; null is the stage sft."
    )
    data: str | None = Field(None, description="Folder of token files to train on; null is data/tokens.")
    max_spike: float | None = Field(
        None, gt=1, description="Skip a step whose gradient norm exceeds this multiple of the recent median; null "
        "disables it. Disabled here because gradients shrink as the pairs are learned.",
    )  # fmt: skip
    adapter: adapters.AdapterParams | None = Field(
        None, description="PEFT method, a file of tasks/training/adapters/, with its params; null trains all weights."
    )
    global_batch_size: int = Field(
        64, ge=1, description="Ranked lists of answers per step; a pair that is not part of a list counts as one."
    )
    micro_batch_size: int | None = Field(
        None, ge=1, description="Pairs per forward and backward pass; null is all pairs of the step."
    )
    max_length: int = Field(
        512, ge=2, description="Maximum tokens of a prompt with its answer; pairs with a longer one are not used."
    )
    margin: float = Field(
        0.0, ge=0, description="Difference by which the score of the chosen answer should exceed that of the rejected."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Assumed share of pairs in which chosen and rejected are confused."
    )
    centering: float = Field(
        0.0, ge=0, description="Weight of (chosen score + rejected score)^2 in the loss; 0.01 keeps the mean score "
        "near 0.",
    )  # fmt: skip
    validation_pairs: int | None = Field(
        1000, ge=1, description="Maximum number of validation pairs per evaluation; null uses all."
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts with their answers, each once, and the pairs between these: `better[i]` should score above `worse[i]`."""

    answers: AnswerBatch
    better: Tensor
    worse: Tensor
    pair_weights: Tensor
    weight: float  # ranked lists, or parts of them


class RewardWork(Work):
    """What the reward model brings to the loop."""

    model: Any

    def __init__(self, model: Any, train: Pairs, validation: Pairs | None, params: Params, pad_id: int) -> None:
        self.model, self.train, self.validation = model, train, validation
        self.params, self.pad_id = params, pad_id
        order = np.argsort(train.lists, kind="stable")
        self._lists = np.split(order, np.flatnonzero(np.diff(train.lists[order])) + 1)
        self._lengths, self._pair_weights = train.lengths(), list_weights(torch.from_numpy(train.lists))

    def batches(self, step: int) -> Sequence[Batch]:
        """Whole ranked lists; their pairs may fall into several micro-batches."""
        list_numbers = step_indices(len(self._lists), self.params.global_batch_size, step, self.params.seed)
        indices = np.concatenate([self._lists[i] for i in list_numbers])
        parts = micro_batches(indices, self._lengths[indices], self.params.micro_batch_size)
        return [self._batch(self.train, part.tolist()) for part in parts]

    def _batch(self, source: Pairs, indices: Sequence[int]) -> Batch:
        lists = ranked(source, indices)
        device = self.model.device
        answers = collate_by_prompt(lists.prompts, lists.answers, self.pad_id, device, self.model.dtype)
        weights = self._pair_weights[list(indices)].to(device)
        better, worse = (torch.tensor(numbers, device=device) for numbers in (lists.better, lists.worse))
        return Batch(answers, better, worse, weights, float(weights.sum()))

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The ranking loss, in which every list weighs as much; accuracy and margin of the batch."""
        scores = answer_rewards(self.model, batch.answers)
        chosen, rejected = scores[batch.better], scores[batch.worse]
        p = self.params
        losses = ranking_loss(chosen, rejected, p.margin, p.label_smoothing, p.centering)
        right = ((chosen > rejected).float() * batch.pair_weights).sum() / batch.pair_weights.sum()
        loss = (losses * batch.pair_weights).sum() / batch.pair_weights.sum()
        return loss, {"accuracy": right, "margin": (chosen - rejected).detach().mean()}

    def evaluate(self, step: int) -> Mapping[str, float]:
        """Loss and accuracy on validation pairs."""
        if self.validation is None:
            return {}
        chosen, rejected = pair_scores(self.model, self.validation, self.pad_id, self.params.validation_pairs)
        losses = ranking_loss(chosen, rejected)
        accuracy = float(reward_metrics.correctness((chosen - rejected).numpy()).mean())
        return {"validation_loss": float(losses.mean()), "validation_accuracy": accuracy}


def train(params: Params, data: Path, checkpoints: Path, timings: Timings, name: str = "reward") -> Report:
    """data/tokens/preferences and data/models/sft -> data/models/reward. Raises BadInput, BadModel, NothingLeft."""
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = stage_files.load_tokenizer(tokens, data)
    train_pairs = read_pairs(tokens / "preferences/train", params.max_length)
    validation = read_pairs_if_any(tokens / "preferences/validation", params.max_length)
    base = stage_files.base_model(params.base, "sft", data)
    model = build_model(base, params, tokenizer)
    work = RewardWork(model, train_pairs, validation, params, tokenizer.pad_token_id)
    with timings.measure("steps"), attention.packed(model):
        log = run(work, params, checkpoints, name, timings)
    counts = adapters.parameter_counts(model)
    report = stage_files.finish(name, params, model, tokenizer, log, data, timings, base, counts)
    with timings.measure("measure"):
        _add_metrics(report, model, train_pairs, validation, tokenizer.pad_token_id)
    return report


def build_model(base: str | Path, params: Params, tokenizer: Any) -> Any:
    """The model at `base` with a new scalar head in place of its vocabulary head; with the adapter, if there is one."""
    causal, own = models.load_causal(base)
    models.fit_vocabulary(causal, own, tokenizer, base)
    model = with_head(causal, params.seed)
    return adapters.attach(model, params.adapter, params.seed)


def with_head(causal: Any, seed: int) -> Any:
    """`causal`'s trunk under a new head, as the class that AutoModelForSequenceClassification gives."""
    from transformers import AutoModelForSequenceClassification

    causal.config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(causal.config, dtype=torch.float32)
        setattr(model, model.base_model_prefix, causal.base_model)
        width = model.score.weight.shape[1]
        nn.init.normal_(model.score.weight, std=(width + 1) ** -0.5)
    model.score.keep_fp32 = True
    return model


@torch.no_grad()
def pair_scores(model: Any, validation: Pairs, pad_id: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Scores of the chosen and of the rejected answers, [pairs] each, of at most the first `limit` pairs."""
    count = min(len(validation), limit or len(validation))
    parts = micro_batches(np.arange(count), validation.lengths()[:count], PAIRS_PER_BATCH)
    scores = torch.zeros(2, count)
    with evaluating(model):
        for part in parts:
            sides = [[validation.answers["chosen"][i], validation.answers["rejected"][i]] for i in part]
            prompts = [validation.prompts[i] for i in part]
            batch = collate_by_prompt(prompts, sides, pad_id, model.device, model.dtype)
            scores[:, part] = answer_rewards(model, batch).view(-1, 2).T.cpu()
    return scores[0], scores[1]


def _add_metrics(report: Report, model: Any, train_pairs: Pairs, validation: Pairs | None, pad_id: int) -> None:
    """Add to `report` what the finished model does on all validation pairs."""
    report.counts |= {"train_pairs": len(train_pairs), "too_long_pairs": train_pairs.num_too_long}
    if validation is None:
        report.notes.append("reward: there is no validation pair, so nothing is known about pairs not trained on")
        return
    chosen, rejected = (scores.double().numpy() for scores in pair_scores(model, validation, pad_id))
    margins = chosen - rejected
    lengths = validation.answer_lengths("chosen"), validation.answer_lengths("rejected")
    report.counts["validation_pairs"] = len(validation)
    report.scores |= reward_metrics.metrics(margins, validation.reasons, *lengths, Score.of_share, _rounded)
    by_length_alone = reward_metrics.correctness(lengths[0] - lengths[1])
    report.scores["accuracy_of_length_alone"] = Score.of_share(float(by_length_alone.sum()), len(margins))
    report.scores["mean_score"] = round(float((chosen.mean() + rejected.mean()) / 2), 6)
    quantiles = np.quantile(margins, MARGIN_QUANTILES).round(6).tolist()
    rows = zip(MARGIN_QUANTILES, quantiles, strict=True)
    report.tables["margins"] = [{"quantile": q, "margin": margin} for q, margin in rows]


def _rounded(columns: reward_metrics.FloatArray, statistic: reward_metrics.Statistic) -> float:
    return round(float(statistic(columns.sum(axis=0))), 6)
