"""Tokens of a chat template that a trained base has in its vocabulary, but has never read.

Base models often reserve such tokens (Qwen's `<|im_start|>`), and pretraining on documents alone reads no end of an
answer. The embedding of such a token is a random number, and its row of the head says that it never follows. Both are
frozen under LoRA, so that the blocks would have to work against them, and would forget everything else. The tokens are
found by a trial: if the base predicts some chats better with the mean of all other rows in the place of a token's row,
it does not know the token. The row then begins with that mean, and LoRA trains it, as it does for new tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tasks import models
from tasks.answers import evaluating
from tasks.causal import attention, heads, remembered
from tasks.causal.row_loss import row_loss
from tasks.causal.self_check import Needs
from tasks.training.language.rows import PackedBatch, PackedRows
from tasks.training.parallel import processes
from tasks.training.parallel.processes import on_device

NUM_ROWS = 4
MIN_GAIN = 0.02  # of the loss, as a share of it; a row that is a little worse than the mean is no unknown token


@torch.no_grad()
def begin_with_mean(model: Any, tokenizer: Any, rows: PackedRows, needs: Needs, device: torch.device) -> list[str]:
    """Give the tokens of the template in `rows` that `model` does not know a new beginning; a note if there are any.

    Raises BadModel if the self-check refuses the model.
    """
    batch = rows.batches(0)[0]
    common = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id, *models.new_token_ids(model)}
    candidates = sorted((set(tokenizer.added_tokens_decoder) - common) & set(batch.ids[:NUM_ROWS].unique().tolist()))
    if not candidates:
        return []
    layers = model.get_input_embeddings(), model.get_output_embeddings()
    tables = list({id(layer.weight): layer.weight for layer in layers}.values())
    is_other = torch.ones(len(tables[0]), dtype=torch.bool)
    is_other[[*candidates, *models.new_token_ids(model)]] = False
    is_other[len(tokenizer) :] = False
    means = [table[is_other.to(table.device)].mean(0) for table in tables]
    unknown, notes = list[int](), list[str]()
    if processes.rank() == 0:
        with on_device(model, device):
            unknown, notes = _try_means(model, tokenizer, batch, candidates, tables, means, needs)
    # All processes must change the same rows.
    unknown = sorted(map(int, processes.all_reduce_sum({str(token): 1.0 for token in unknown})))
    for table, mean in zip(tables, means, strict=True):
        table[unknown] = mean.to(table.device)
    if unknown:
        model.config.new_token_ids = sorted({*unknown, *models.new_token_ids(model)})
    return notes


def _try_means(
    model: Any, tokenizer: Any, batch: PackedBatch, candidates: Sequence[int], tables: Sequence[Tensor],
    means: Sequence[Tensor], needs: Needs,
) -> tuple[list[int], list[str]]:  # fmt: skip
    """The tokens among `candidates` that `model` does not know, and a note about them. The rows stay as they are."""
    remembered.prepare(model, tokenizer, needs)
    ids, positions, targets = (
        part[:NUM_ROWS].to(heads.device(model)) for part in (batch.ids, batch.positions, batch.targets)
    )
    previous = [table[candidates].clone() for table in tables]
    unknown = list[int]()
    with attention.packed(model), evaluating(model):
        first = lowest = float(row_loss(model, ids, positions, targets)[0])
        for place, token in enumerate(candidates):
            for table, mean in zip(tables, means, strict=True):
                table[token] = mean.to(table.device)
            changed = float(row_loss(model, ids, positions, targets)[0])
            if changed < (1 - MIN_GAIN) * lowest:
                lowest, unknown = changed, [*unknown, token]
                continue
            for table, rows in zip(tables, previous, strict=True):
                table[token] = rows[place]
    for table, rows in zip(tables, previous, strict=True):
        table[candidates] = rows
    if not unknown:
        return [], []
    note = (
        f"The base does not know {', '.join(tokenizer.convert_ids_to_tokens(unknown))} of the chat template: these "
        f"tokens begin with the mean of the other embeddings, so that the loss of the first answers is {lowest:.3g} "
        f"instead of {first:.3g}."
    )
    return unknown, [note]
