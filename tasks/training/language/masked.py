"""Masked language modeling on packed rows: what pretrain brings to the loop for an encoder (BERT, arXiv:1810.04805).

What is hidden is drawn anew for every step (RoBERTa, arXiv:1907.11692) and is a pure function of (seed, step).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.corruption import Masking, hide
from tasks.training.language import attention
from tasks.training.language.losses import IGNORED
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import Batch, Rows

HELD_OUT = 1_000_000_007  # takes the place of a step where validation rows are hidden


class Masked(NextToken):
    """Cross-entropy on the hidden tokens; in evaluation the same ones every time."""

    def __init__(
        self, model: nn.Module, train: Rows, validation: Rows | None, max_rows: int | None,
        *, masking: Masking, mask_id: int, vocab_size: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(model, train, validation, max_rows)
        self.masking, self.mask_id, self.vocab_size, self.seed = masking, mask_id, vocab_size, seed

    def batches(self, step: int) -> Sequence[Batch]:
        """The rows of one step with tokens hidden."""
        return list(self._hidden(super().batches(step), step))

    def held_out(self) -> Iterable[Batch]:
        """The validation rows with tokens hidden."""
        return self._hidden(super().held_out(), HELD_OUT)

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean cross-entropy over the hidden tokens of one micro-batch, and the share that is guessed."""
        device = next(self.model.parameters()).device
        targets = batch.targets.to(device)
        asked = targets != IGNORED
        hidden = last_hidden(self.model, batch.ids.to(device), batch.positions.to(device))
        logits, wanted = head(self.model)(hidden[asked]).float(), targets[asked]
        right = (logits.detach().argmax(-1) == wanted).sum() / max(1, len(wanted))
        return F.cross_entropy(logits, wanted, reduction="sum") / max(1, len(wanted)), {"masked_accuracy": right}

    def _hidden(self, batches: Iterable[Batch], step: int) -> Iterable[Batch]:
        place = 0
        for batch in batches:
            rows = []
            for ids, positions in zip(batch.ids.numpy(), batch.positions.numpy(), strict=True):
                generator = np.random.default_rng((self.seed, step, place))
                rows.append(hide(ids, positions > 0, self.masking, self.mask_id, self.vocab_size, generator))
                place += 1
            given, guessed = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
            targets = batch.ids.masked_fill(~guessed, IGNORED)
            yield Batch(given, batch.positions, targets, float(guessed.sum()), batch.rows)


def last_hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """The last hidden states of packed rows, no document of which sees another: [rows, length, width]."""
    mask: Any = attention.fellows(positions)
    if model.config.model_type == "modernbert":
        index = torch.arange(ids.shape[1], device=ids.device)
        near = (index[:, None] - index).abs() <= model.config.sliding_window
        mask = {"full_attention": mask, "sliding_attention": mask & near}
    first = getattr(model.base_model.embeddings, "padding_idx", -1) + 1  # roberta counts from behind its padding
    found = model.base_model(input_ids=ids, position_ids=positions + first, attention_mask=mask)
    hidden: Tensor = found.last_hidden_state
    return hidden


def head(model: Any) -> Any:
    """What turns last hidden states into logits in the classes of transformers for masked language models."""
    if hasattr(model, "cls"):  # bert
        return model.cls
    if hasattr(model, "lm_head"):  # roberta
        return model.lm_head
    return nn.Sequential(model.head, model.decoder)  # modernbert
