"""A prompt with several answers in one row: the model reads the prompt once, and no answer attends to another.

The two sequences of a preference pair begin with the same prompt; sharing it saves up to half of the work. The tokens
of an answer attend to the prompt and to the answer itself, at the positions that they have in a sequence of their own,
so that log-probabilities, scores and gradients are those of separate sequences up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tasks.answers import AnswerBatch, Ids, collate
from tasks.causal import methods


def collate_by_prompt(
    prompts: Sequence[Ids],
    answers: Sequence[Sequence[Ids]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> AnswerBatch:
    """One row per prompt with all its answers. No prompt may be empty."""
    rows = [np.concatenate((prompt, *own)) for prompt, own in zip(prompts, answers, strict=True)]
    size = (len(rows), max(len(row) for row in rows))
    ids = np.full(size, pad_id, np.int64)
    positions = np.zeros(size, np.int64)
    part = np.full(size, -1, np.int64)  # 0: the prompt, k: its k-th answer, -1: padding
    where, lengths, ends = [], [], []
    for row, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(rows[row])] = rows[row]
        start = len(prompt)
        part[row, :start], positions[row, :start] = 0, np.arange(start)
        for number, answer in enumerate(own):
            end = start + len(answer)
            part[row, start:end] = number + 1
            # Each answer continues directly after the prompt, as in a sequence of its own.
            positions[row, start:end] = len(prompt) + np.arange(len(answer))
            # A causal model predicts a token at the position before it. For the first token of an answer that is the
            # last token of the prompt, wherever the answer stands in the row.
            where.append(row * size[1] + np.r_[len(prompt) - 1, start : end - 1])
            lengths.append(len(answer))
            ends.append(row * size[1] + end - 1)
            start = end
    targets = np.concatenate([answer for own in answers for answer in own]).astype(np.int64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    arrays = (ids, np.concatenate(where), targets, owner, np.array(lengths), np.array(ends))
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    tensors += [torch.from_numpy(positions).to(device), torch.from_numpy(part).to(device)]
    return AnswerBatch(*tensors)


def collate_answers(model: Any, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]], pad_id: int) -> AnswerBatch:
    """The answers to prompts as `model` reads them: in one row with their prompt, or in a row for each answer."""
    device = next(model.parameters()).device
    if methods.of(model).pairs == "shared":
        return collate_by_prompt(prompts, answers, pad_id, device)
    rows = [(prompt, answer) for prompt, own in zip(prompts, answers, strict=True) for answer in own]
    return collate([np.concatenate(row) for row in rows], [len(prompt) for prompt, _ in rows], pad_id, device)
