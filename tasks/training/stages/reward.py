"""The reward model: the sft model with a scalar head, trained to score the chosen answer of a pair above the rejected.

The loss is Bradley-Terry as in InstructGPT (Ouyang 2022, arXiv:2203.02155), with all pairs of a ranked list in one
batch. The head reads the hidden state of the last token, which is the end token of the answer. Its weights are
initialized with variance 1 / (width + 1) ("The N Implementation Details of RLHF with PPO", Huang et al. 2023).
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
from tasks.causal import attention, remembered
from tasks.causal.backbone import backbone_of
from tasks.causal.dropout import without_dropout
from tasks.causal.heads import scores_layer
from tasks.causal.reward_class import reward_class
from tasks.causal.self_check import Needs
from tasks.causal.shared_prompts import collate_answers
from tasks.pairs import Pairs, read_pairs, read_pairs_if_any, unused_unpaired
from tasks.reports import Report, Score, Timings
from tasks.training import adapters
from tasks.training.loop import data_use, stage_files
from tasks.training.loop.training_loop import run
from tasks.training.loop.work import Work
from tasks.training.preference_params import PairParams
from tasks.training.preferences.order import micro_batches, step_indices
from tasks.training.preferences.preference_losses import list_weights, ranking_loss
from tasks.training.preferences.ranked_lists import ranked

PAIRS_PER_BATCH = 128  # pairs
MARGIN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Params(PairParams, frozen=True):
    """Params of the reward model: the base model, the batches and the loss, besides those of the training loop."""

    steps: int = Field(1000, ge=1, description="Number of optimizer updates; without any, the head would be random.")
    global_batch_size: int = Field(
        64, ge=1, description="Ranked lists of answers per step; a pair that is not part of a list counts as one."
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
    """Prompts with their answers, each once, and pairs of these answers.

    better, worse: [pairs], numbers of answers; better[i] should get a higher score than worse[i]. weight: the sum of
    pair_weights [pairs], which is the number of ranked lists or of parts of them.
    """

    answers: AnswerBatch
    better: Tensor
    worse: Tensor
    pair_weights: Tensor
    weight: float


class RewardWork(Work):
    """Batches, loss and evaluation of the reward model for the training loop."""

    model: Any

    def __init__(self, model: Any, train: Pairs, validation: Pairs | None, params: Params, pad_id: int) -> None:
        self.model, self.train, self.validation = model, train, validation
        self.params, self.pad_id = params, pad_id
        order = np.argsort(train.lists, kind="stable")
        self._lists = np.split(order, np.flatnonzero(np.diff(train.lists[order])) + 1)
        self._lengths, self._pair_weights = train.lengths(), list_weights(torch.from_numpy(train.lists))

    @property
    def num_lists(self) -> int:
        """The number of ranked lists for training; a pair that is not part of a list counts as one."""
        return len(self._lists)

    def batches(self, step: int) -> Sequence[Batch]:
        """The pairs of whole ranked lists, in micro-batches; the pairs of a list may be in several of them."""
        # All pairs of a list are in one step: spread over several steps, they would overfit, as each answer occurs in
        # K - 1 pairs (InstructGPT, section 3.5).
        list_numbers = step_indices(len(self._lists), self.params.global_batch_size, step, self.params.seed)
        indices = np.concatenate([self._lists[i] for i in list_numbers])
        parts = micro_batches(indices, self._lengths[indices], self.params.micro_batch_size)
        return [self._batch(self.train, part.tolist()) for part in parts]

    def _batch(self, source: Pairs, indices: Sequence[int]) -> Batch:
        lists = ranked(source, indices)
        device = self.model.device
        answers = collate_answers(self.model, lists.prompts, lists.answers, self.pad_id)
        weights = self._pair_weights[list(indices)].to(device)
        better, worse = (torch.tensor(numbers, device=device) for numbers in (lists.better, lists.worse))
        return Batch(answers, better, worse, weights, float(weights.sum()))

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """The ranking loss, in which all lists have the same weight; accuracy and mean margin of the batch."""
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
    """Train on data/tokens/preferences and save data/models/<name>. Raises BadInput, BadModel, NothingLeft."""
    tokens = stage_files.tokens_folder(params.data, data)
    tokenizer = stage_files.load_tokenizer(tokens, data)
    train_pairs = read_pairs(tokens / "preferences/train", params.max_length)
    validation = read_pairs_if_any(tokens / "preferences/validation", params.max_length)
    base = stage_files.base_model(params.base, "sft", data)
    model = build_model(base, params, tokenizer)
    with timings.measure("self_check"):
        notes = remembered.prepare(model, tokenizer, Needs(pairs=params.pairs, max_length=params.max_length))
    work = RewardWork(model, train_pairs, validation, params, tokenizer.pad_token_id)
    with timings.measure("steps"), attention.packed(model), without_dropout(model):
        log = run(work, params, checkpoints, name, timings)
    counts = adapters.parameter_counts(model)
    report = stage_files.finish(name, params, model, tokenizer, log, data, timings, base, counts, notes)
    pairs_per_step = params.global_batch_size * len(train_pairs) / work.num_lists
    limit = f"max_length ({params.max_length} tokens)"
    use = data_use.DataUse("pairs", len(train_pairs), pairs_per_step, train_pairs.num_too_long, limit)
    with timings.measure("measure"):
        _add_metrics(report, model, train_pairs, validation, tokenizer.pad_token_id)
    data_use.describe(report, use, params)
    reason = "a reward model learns from the comparison of two answers"
    unused, unused_notes = unused_unpaired(tokens / "preferences", "reward", reason)
    report.counts |= unused
    report.notes += unused_notes
    return report


def build_model(base: str | Path, params: Params, tokenizer: Any) -> Any:
    """The model at `base` with a new scalar head instead of its vocabulary head, and with the adapter of `params`.

    A reward model, such as that of the round before, keeps its head.
    """
    if models.is_reward(base):
        reward, _ = models.load_reward(base)
        for child in reward.children():
            if child is not backbone_of(reward):
                child.keep_fp32 = True
        return adapters.attach(reward, params.adapter, params.seed)
    causal, own = models.load_causal(base)
    models.fit_vocabulary(causal, own, tokenizer, base)
    model = with_head(causal, params.seed)
    return adapters.attach(model, params.adapter, params.seed)


def with_head(causal: Any, seed: int) -> Any:
    """The trunk of `causal` with a new head, in the class for reward models of its family."""
    config = causal.config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = reward_class(config)._from_config(config, dtype=torch.float32)
        # The trunk is shared with `causal`, not copied; only the head is new.
        setattr(model, model.base_model_prefix, backbone_of(causal))
        layer = scores_layer(model)
        nn.init.normal_(layer.weight, std=(layer.weight.shape[1] + 1) ** -0.5)
    trunk = backbone_of(model)
    for child in model.children():
        if child is not trunk:  # in bf16, scores that differ by less than 1 % would be equal
            child.keep_fp32 = True
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
            batch = collate_answers(model, prompts, sides, pad_id)
            scores[:, part] = answer_rewards(model, batch).view(-1, 2).T.cpu()
    return scores[0], scores[1]


def _add_metrics(report: Report, model: Any, train_pairs: Pairs, validation: Pairs | None, pad_id: int) -> None:
    """Add the metrics of the trained model on all validation pairs to `report`."""
    report.counts |= {"train_pairs": len(train_pairs), "too_long_pairs": train_pairs.num_too_long}
    if validation is None:
        report.notes.append("there is no validation pair, so the accuracy on pairs that were not trained on is unknown")
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
