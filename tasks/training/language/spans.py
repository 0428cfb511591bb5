"""Span corruption on packed rows: the work that pretrain gives to the loop for an encoder-decoder (arXiv:1910.10683).

Each document is corrupted by itself; self-attention and cross-attention stay within a document. Spans are drawn anew in
every step, as a pure function of (seed, step).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.causal.losses import IGNORED, next_token_loss
from tasks.corruption import SpanCorruption, corrupt_spans, draw_spans
from tasks.training.language.masked import VALIDATION_STEP
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedBatch, PackedRows

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SpanCorruptionBatch:
    """Tensors of int64, padded to the longest row: [rows, input length] and [rows, target length].

    `input_documents` and `target_documents` say which document of its row a token belongs to: 1, 2 ...; padding is 0.
    """

    input_ids: Tensor
    input_documents: Tensor
    decoder_input_ids: Tensor  # the targets, shifted to the right within each document
    target_documents: Tensor
    targets: Tensor
    weight: float  # number of targets
    rows: tuple[int, ...]  # numbers of the rows in the stream


class Spans(NextToken):
    """Cross-entropy on the corrupted spans; the validation rows are corrupted in the same way every time."""

    def __init__(
        self, model: nn.Module, train: PackedRows, validation: PackedRows | None, max_rows: int | None,
        *, span_corruption: SpanCorruption, sentinels: Ids, end_id: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(model, train, validation, max_rows)
        self.span_corruption, self.sentinels, self.end_id, self.seed = span_corruption, sentinels, end_id, seed
        self.pad = train.pad

    def batches(self, step: int) -> Sequence[Any]:
        """The corrupted micro-batches of one step."""
        return list(self._corrupt(super().batches(step), step))

    def validation_batches(self) -> Iterable[Any]:
        """The corrupted validation rows."""
        return self._corrupt(super().validation_batches(), VALIDATION_STEP)

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean cross-entropy in nats over the targets of one micro-batch."""
        model: Any = self.model
        hidden = scaled_hidden(model, batch)
        return next_token_loss(hidden, model.get_output_embeddings().weight, batch.targets.to(hidden.device))[0], {}

    def _corrupt(self, batches: Iterable[PackedBatch], step: int) -> Iterable[SpanCorruptionBatch]:
        index = 0  # of the row in the step: a row is corrupted in the same way whatever the micro-batch size is
        for batch in batches:
            rows = []
            for ids, positions in zip(batch.ids.numpy(), batch.positions.numpy(), strict=True):
                rows.append(self._row(ids, positions, np.random.default_rng((self.seed, step, index))))
                index += 1
            yield self._collate(rows, batch.rows)

    def _row(self, ids: Ids, positions: Ids, generator: np.random.Generator) -> list[Ids]:
        """input_ids, input_documents, decoder_input_ids, targets and target_documents of one row."""
        columns: list[list[Ids]] = [[], [], [], [], []]
        borders = [*np.flatnonzero(positions == 0), len(ids)]
        for number, (start, end) in enumerate(pairwise(borders), 1):
            document = ids[start:end]
            if len(document) < 2:  # padding, or the first token of a document that continues in the next row
                continue
            is_corrupted = draw_spans(len(document), self.span_corruption, generator)
            example = corrupt_spans(document, is_corrupted, self.sentinels)
            targets = np.append(example.target_ids, self.end_id)
            decoder_input_ids = np.insert(targets[:-1], 0, self.pad)  # T5's decoder starts with the padding token
            parts = (
                example.input_ids, np.full(len(example.input_ids), number),
                decoder_input_ids, targets, np.full(len(targets), number),
            )  # fmt: skip
            for column, part in zip(columns, parts, strict=True):
                column.append(part)
        return [np.concatenate(column) if column else np.empty(0, np.int64) for column in columns]

    def _collate(self, rows: Sequence[Sequence[Ids]], numbers: tuple[int, ...]) -> SpanCorruptionBatch:
        fill_values = self.pad, 0, self.pad, IGNORED, 0
        padded = [_pad(column, fill) for column, fill in zip(zip(*rows, strict=True), fill_values, strict=True)]
        input_ids, input_documents, decoder_input_ids, targets, target_documents = padded
        weight = float((targets != IGNORED).sum())
        return SpanCorruptionBatch(
            input_ids, input_documents, decoder_input_ids, target_documents, targets, weight, numbers
        )


def scaled_hidden(model: Any, batch: SpanCorruptionBatch) -> Tensor:
    """The decoder's last hidden states as the head receives them, [rows, target length, width]."""
    # With tied embeddings, T5 scales the decoder's output before the head.
    scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
    return decoder_hidden(model, batch) * scale


def decoder_hidden(model: Any, batch: SpanCorruptionBatch) -> Tensor:
    """The decoder's last hidden states, [rows, target length, width]."""
    device = model.get_output_embeddings().weight.device
    inputs, targets = batch.input_documents.to(device), batch.target_documents.to(device)
    length = targets.shape[1]
    is_earlier = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    encoded = model.encoder(
        input_ids=batch.input_ids.to(device), attention_mask=(inputs[:, :, None] == inputs[:, None, :])[:, None]
    ).last_hidden_state
    # A padded target has no document. If the inputs of its row have no padding either, it would have no key to attend
    # to, and softmax would give NaN; so it attends to all keys. It has no loss.
    cross_mask = (targets[:, :, None] == inputs[:, None, :]) | (targets == 0)[:, :, None]
    hidden: Tensor = model.decoder(
        input_ids=batch.decoder_input_ids.to(device),
        attention_mask=((targets[:, :, None] == targets[:, None, :]) & is_earlier)[:, None],
        encoder_hidden_states=encoded,
        encoder_attention_mask=cross_mask[:, None],
        use_cache=False,
    ).last_hidden_state
    return hidden


def _pad(parts: Sequence[Ids], fill: int) -> Tensor:
    length = max(1, *(len(part) for part in parts))
    return torch.from_numpy(np.stack([np.pad(part, (0, length - len(part)), constant_values=fill) for part in parts]))
