"""Prompts with answers as padded batches, and what models say about them: log-probabilities of a policy, rewards.

Nothing here generates text (tasks/generation.py does). The vocabulary head is applied only to the positions that
predict an answer token: with a large vocabulary, the logits of all positions would need most of the memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks import peft
from tasks.causal import backbone, heads, methods

Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
# Bounds of one batch, so that memory does not grow with the length of the texts. An attention mask and the weights of
# attention have an element for each pair of tokens of a row.
MAX_BATCH_TOKENS = 1 << 15
MAX_BATCH_TOKEN_PAIRS = 1 << 26
MAX_LOGITS = 1 << 23  # 32 MB in fp32


@dataclass(frozen=True, slots=True)
class AnswerBatch:
    """Prompts with their answers, padded on the right, so that causal attention needs no mask.

    ids: [rows, length]. `num_tokens` below counts the answer tokens of the whole batch.
    where: [num_tokens], the flat position in `ids` that predicts each answer token (the position before it);
    targets: [num_tokens], the answer tokens; owner: [num_tokens], the number of the answer that each one belongs to;
    lengths: [answers], the number of tokens of each answer; ends: [answers], the flat position of its last token.
    Several answers in one row need `positions` and `part`, int64 [rows, length], as tasks/causal/masks.Layout has them.
    """

    ids: Tensor
    where: Tensor
    targets: Tensor
    owner: Tensor
    lengths: Tensor
    ends: Tensor
    positions: Tensor | None = None
    part: Tensor | None = None

    def sum_by_answer(self, values: Tensor) -> Tensor:
        """Sum `values`, one per answer token [num_tokens], over each answer: [answers]."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.owner, values)


def collate(sequences: Sequence[Ids], prompt_lengths: Sequence[int], pad_id: int, device: Any = "cpu") -> AnswerBatch:
    """Pad sequences (each a prompt followed by its answer) and note where the answers are. No prompt may be empty."""
    ids, ends = pad(sequences, pad_id)
    column = torch.arange(ids.shape[1])
    starts = torch.as_tensor(prompt_lengths, dtype=torch.long)[:, None]
    is_answer = (column >= starts) & (column < ends[:, None])
    flat = is_answer.flatten().nonzero().squeeze(1)
    last = torch.arange(len(ids)) * ids.shape[1] + ends - 1
    # A causal model predicts the token at position p from the state at p - 1; that is why no prompt may be empty.
    tensors = (ids, flat - 1, ids.flatten()[flat], flat // ids.shape[1], is_answer.sum(1), last)
    return AnswerBatch(*(tensor.to(device) for tensor in tensors))


def pad(sequences: Sequence[Ids], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """Pad sequences on one side: ids [rows, length] and the length of each row [rows], both int64."""
    rows = [torch.from_numpy(np.array(ids, dtype=np.int64)) for ids in sequences]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side)
    return ids, torch.tensor([len(row) for row in rows])


def answer_states(model: Any, batch: AnswerBatch) -> Tensor:
    """The last hidden state at each position that predicts an answer token: [num_tokens, hidden_size]."""
    return _all_states(model, batch)[batch.where]


def answer_logits(model: Any, states: Tensor) -> Tensor:
    """The logits of hidden states [..., hidden_size]: [..., vocab_size]."""
    return heads.logits(model, states)


def token_log_probs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(target) of each row of `logits` [num_tokens, vocab_size], float32 [num_tokens]; keeps the gradient."""
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    return -F.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def log_probabilities(
    model: Any,
    sequences: Sequence[Ids],
    prompt_lengths: Sequence[int],
    *,
    pad_id: int = 0,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> list[Tensor]:
    """log p of every answer token without gradient: one float32 tensor on the CPU per sequence, in their order."""
    result: list[Tensor] = [torch.empty(0)] * len(sequences)
    with evaluating(model):
        for rows in batches_by_length([len(sequence) for sequence in sequences], batch_size):
            batch = collate([sequences[r] for r in rows], [prompt_lengths[r] for r in rows], pad_id, device_of(model))
            states = answer_states(model, batch)
            parts = [
                token_log_probs(answer_logits(model, states[part]), batch.targets[part], temperature)
                for part in logit_slices(model, len(states))
            ]
            log_probs = torch.cat(parts).cpu()
            for row, of_answer in zip(rows, torch.split(log_probs, batch.lengths.tolist()), strict=True):
                result[row] = of_answer
    return result


def answer_rewards(model: Any, batch: AnswerBatch) -> Tensor:
    """The score that a reward model gives to each answer, read from its last token: float32 [answers]."""
    return heads.scores(model, _all_states(model, batch)[batch.ends])


@torch.no_grad()
def reward_scores(model: Any, sequences: Sequence[Ids], *, pad_id: int, batch_size: int = 256) -> Tensor:
    """The score that a reward model gives to each sequence (prompt and answer), float32 [sequences] on the CPU.

    Equals the logits of `AutoModelForSequenceClassification` (num_labels 1) with padding on the right.
    """
    result = torch.zeros(len(sequences))
    with evaluating(model):
        for rows in batches_by_length([len(sequence) for sequence in sequences], batch_size):
            lengths = [len(sequences[row]) for row in rows]
            batch = collate([sequences[row] for row in rows], lengths, pad_id, device_of(model))
            result[rows] = answer_rewards(model, batch).cpu()
    return result


def batches_by_length(lengths: Sequence[int], batch_size: int, num_new_tokens: int = 0) -> Iterator[list[int]]:
    """The numbers of the rows with these lengths (in tokens) in batches, shortest first.

    Every row is padded to the longest one of its batch, to which `num_new_tokens` will be added. A batch has at most
    `batch_size` rows, and fewer where they are long: MAX_BATCH_TOKENS and MAX_BATCH_TOKEN_PAIRS bound its memory.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    batch: list[int] = []
    for row in order:
        length = max(1, lengths[row] + num_new_tokens)
        most = min(batch_size, MAX_BATCH_TOKENS // length, MAX_BATCH_TOKEN_PAIRS // length**2)
        if batch and len(batch) >= most:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def logit_slices(model: Any, num_states: int) -> Iterator[slice]:
    """Slices of `num_states` hidden states, each of which has at most MAX_LOGITS logits; one empty slice for none."""
    most = max(1, MAX_LOGITS // int(peft.base_model(model).config.vocab_size))
    for start in range(0, max(1, num_states), most):
        yield slice(start, start + most)


def _all_states(model: Any, batch: AnswerBatch) -> Tensor:
    """The last hidden states of all positions, [rows * length, hidden_size]."""
    if batch.part is not None:
        assert batch.positions is not None
        output = backbone.with_layout(model, batch.ids, batch.positions, batch.part)
    elif methods.of(model).equal_lengths:
        output = backbone.by_document(model, batch.ids, _positions(batch))
    else:
        output = backbone.alone(model, batch.ids)
    return output.hidden.flatten(0, 1)


def _positions(batch: AnswerBatch) -> Tensor:
    """The position of each token in its row of one text, 0 for padding: [rows, length]."""
    length = batch.ids.shape[1]
    column = torch.arange(length, device=batch.ids.device)
    return column * (column <= batch.ends[:, None] % length)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode (no dropout) within the block, then back to the mode before."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters."""
    return next(model.parameters()).device
