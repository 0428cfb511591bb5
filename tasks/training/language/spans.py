"""Span corruption on packed rows: what pretrain brings to the loop for an encoder-decoder (T5, arXiv:1910.10683).

Each document is a riddle of its own: neither encoder, decoder nor the attention between them sees another's. What is
cut out is drawn anew for every step and is a pure function of (seed, step).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tasks.corruption import Cutting, cut, spans
from tasks.training.language.losses import IGNORED, next_token_loss
from tasks.training.language.masked import HELD_OUT
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import Batch, Rows
from tasks.training.language.trunk import head_weight

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Riddles:
    """int64 tensors [rows, length of the longest]; documents number the riddles of a row from 1, padding is 0."""

    ids: Tensor
    documents: Tensor
    answer_ids: Tensor  # what the decoder is given: the targets, one place later
    answer_documents: Tensor
    targets: Tensor
    weight: float
    rows: tuple[int, ...]


class Spans(NextToken):
    """Cross-entropy on what was cut out; in evaluation the same spans every time."""

    def __init__(
        self, model: nn.Module, train: Rows, validation: Rows | None, max_rows: int | None,
        *, cutting: Cutting, sentinels: Ids, end_id: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(model, train, validation, max_rows)
        self.cutting, self.sentinels, self.end_id, self.seed = cutting, sentinels, end_id, seed
        self.pad = train.pad

    def batches(self, step: int) -> Sequence[Any]:
        """The riddles of one step."""
        return list(self._cut(super().batches(step), step))

    def held_out(self) -> Iterable[Any]:
        """The riddles of the validation rows."""
        return self._cut(super().held_out(), HELD_OUT)

    def loss(self, batch: Any) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean cross-entropy over what the decoder is asked."""
        model: Any = self.model
        scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
        hidden = answer_hidden(model, batch) * scale
        return next_token_loss(hidden, head_weight(model), batch.targets.to(hidden.device))[0], {}

    def _cut(self, batches: Iterable[Batch], step: int) -> Iterable[Riddles]:
        place = 0
        for batch in batches:
            rows = []
            for ids, positions in zip(batch.ids.numpy(), batch.positions.numpy(), strict=True):
                rows.append(self._row(ids, positions, np.random.default_rng((self.seed, step, place))))
                place += 1
            yield self._together(rows, batch.rows)

    def _row(self, ids: Ids, positions: Ids, generator: np.random.Generator) -> list[Ids]:
        """One row as columns: seen, its documents, given, asked, their documents."""
        columns: list[list[Ids]] = [[], [], [], [], []]
        begins = [*np.flatnonzero(positions == 0), len(ids)]
        for number, (begin, end) in enumerate(pairwise(begins), 1):
            part = ids[begin:end]
            if len(part) < 2:  # padding, or the first token of a document that goes on in the next row
                continue
            riddle = cut(part, spans(len(part), self.cutting, generator), self.sentinels)
            asked = np.append(riddle.asked, self.end_id)
            given = np.insert(asked[:-1], 0, self.pad)
            texts = (riddle.seen, np.full(len(riddle.seen), number), given, asked, np.full(len(asked), number))
            for column, text in zip(columns, texts, strict=True):
                column.append(text)
        return [np.concatenate(column) if column else np.empty(0, np.int64) for column in columns]

    def _together(self, rows: Sequence[Sequence[Ids]], places: tuple[int, ...]) -> Riddles:
        fills = self.pad, 0, self.pad, IGNORED, 0
        columns = [_padded(column, fill) for column, fill in zip(zip(*rows, strict=True), fills, strict=True)]
        seen, documents, given, asked, answers = columns
        return Riddles(seen, documents, given, answers, asked, float((asked != IGNORED).sum()), places)


def answer_hidden(model: Any, batch: Riddles) -> Tensor:
    """The decoder's last hidden states, [rows, length of the longest answer, width]."""
    device = head_weight(model).device
    documents, answers = batch.documents.to(device), batch.answer_documents.to(device)
    length = answers.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=device).tril_()
    encoded = model.encoder(
        input_ids=batch.ids.to(device), attention_mask=(documents[:, :, None] == documents[:, None, :])[:, None]
    ).last_hidden_state
    # Padding of an answer has nothing to look at where the row has none: it may see everything, and nobody asks it.
    across = (answers[:, :, None] == documents[:, None, :]) | (answers == 0)[:, :, None]
    hidden: Tensor = model.decoder(
        input_ids=batch.answer_ids.to(device),
        attention_mask=((answers[:, :, None] == answers[:, None, :]) & earlier)[:, None],
        encoder_hidden_states=encoded,
        encoder_attention_mask=across[:, None],
        use_cache=False,
    ).last_hidden_state
    return hidden


def _padded(parts: Sequence[Ids], fill: int) -> Tensor:
    longest = max(1, *(len(part) for part in parts))
    return torch.from_numpy(np.stack([np.pad(part, (0, longest - len(part)), constant_values=fill) for part in parts]))
