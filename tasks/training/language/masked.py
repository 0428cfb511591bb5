"""Masked language modeling on packed rows: the work that pretrain gives to the loop for an encoder (arXiv:1810.04805).

Tokens are masked anew in every step (RoBERTa, arXiv:1907.11692), as a pure function of (seed, step).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.causal import attention
from tasks.causal.losses import IGNORED
from tasks.corruption import Masking, mask_tokens
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedBatch, PackedRows

VALIDATION_STEP = 1_000_000_007  # seeds the masks of validation rows instead of a step; larger than any step


class Masked(NextToken):
    """Cross-entropy on the masked tokens; the validation rows are masked in the same way every time."""

    def __init__(
        self, model: nn.Module, train: PackedRows, validation: PackedRows | None, max_rows: int | None,
        *, masking: Masking, mask_id: int, vocab_size: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__(model, train, validation, max_rows)
        self.masking, self.mask_id, self.vocab_size, self.seed = masking, mask_id, vocab_size, seed

    def batches(self, step: int) -> Sequence[PackedBatch]:
        """The masked micro-batches of one step."""
        return list(self._mask(super().batches(step), step))

    def validation_batches(self) -> Iterable[PackedBatch]:
        """The masked validation rows."""
        return self._mask(super().validation_batches(), VALIDATION_STEP)

    def loss(self, batch: PackedBatch) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        """Mean cross-entropy in nats over the masked tokens of one micro-batch, and the share predicted correctly."""
        device = next(self.model.parameters()).device
        targets = batch.targets.to(device)
        has_target = targets != IGNORED
        hidden = last_hidden(self.model, batch.ids.to(device), batch.positions.to(device))
        logits, masked_ids = head(self.model)(hidden[has_target]).float(), targets[has_target]
        accuracy = (logits.detach().argmax(-1) == masked_ids).sum() / max(1, len(masked_ids))
        loss = F.cross_entropy(logits, masked_ids, reduction="sum") / max(1, len(masked_ids))
        return loss, {"masked_accuracy": accuracy}

    def _mask(self, batches: Iterable[PackedBatch], step: int) -> Iterable[PackedBatch]:
        index = 0  # of the row in the step: a row gets the same masks whatever the micro-batch size is
        for batch in batches:
            rows = []
            for ids, positions in zip(batch.ids.numpy(), batch.positions.numpy(), strict=True):
                generator = np.random.default_rng((self.seed, step, index))
                # The first token of a document and padding have the position 0 and are not masked.
                rows.append(mask_tokens(ids, positions > 0, self.masking, self.mask_id, self.vocab_size, generator))
                index += 1
            masked_ids, is_predicted = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
            targets = batch.ids.masked_fill(~is_predicted, IGNORED)
            yield PackedBatch(masked_ids, batch.positions, targets, float(is_predicted.sum()), batch.rows)


def last_hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """The last hidden states of packed rows, with attention within each document only: [rows, length, width]."""
    mask: Any = attention.same_document_mask(positions)
    if model.config.model_type == "modernbert":  # its layers alternate between global and local attention
        index = torch.arange(ids.shape[1], device=ids.device)
        is_near = (index[:, None] - index).abs() <= model.config.sliding_window
        mask = {"full_attention": mask, "sliding_attention": mask & is_near}
    # RoBERTa numbers positions from padding_idx + 1, because fairseq did; BERT from 0.
    first_position = getattr(model.base_model.embeddings, "padding_idx", -1) + 1
    output = model.base_model(input_ids=ids, position_ids=positions + first_position, attention_mask=mask)
    hidden: Tensor = output.last_hidden_state
    return hidden


def head(model: Any) -> Any:
    """The module that computes logits from last hidden states; each masked language model has its own name for it."""
    if hasattr(model, "cls"):  # BERT
        return model.cls
    if hasattr(model, "lm_head"):  # RoBERTa
        return model.lm_head
    return nn.Sequential(model.head, model.decoder)  # ModernBERT
