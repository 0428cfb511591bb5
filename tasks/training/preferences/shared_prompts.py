"""A prompt with several answers in one row: the model reads the prompt once, and no answer attends to another.

The two sequences of a preference pair begin with the same prompt; sharing it saves up to half of the work. The tokens
of an answer attend to the prompt and to the answer itself, at the positions that they have in a sequence of their own,
so that log-probabilities, scores and gradients are those of separate sequences up to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tasks.answers import AnswerBatch, Ids
from tasks.pairs import Pairs


def collate_by_prompt(
    prompts: Sequence[Ids],
    answers: Sequence[Sequence[Ids]],
    pad_id: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AnswerBatch:
    """One row per prompt with all its answers. The mask has `dtype`, that of the model. No prompt may be empty."""
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
    tensors += [_mask(torch.from_numpy(part).to(device), dtype), torch.from_numpy(positions).to(device)]
    return AnswerBatch(*tensors)


def _mask(part: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive mask [rows, 1, length, length]: 0 for earlier tokens of the prompt or of the same part, else -inf."""
    key, query = part[:, None, :], part[:, :, None]
    # Padding (part -1) attends to the prompt and to other padding: a row of -inf only would give NaN in the softmax.
    visible = ((key == 0) | (key == query)).tril()
    return torch.zeros(visible.shape, dtype=dtype, device=part.device).masked_fill_(~visible, -torch.inf)[:, None]


@dataclass
class Ranked:
    """Ranked lists for `collate_by_prompt`: each prompt once, each of its answers once, and the pairs between answers.

    better, worse: the numbers of the answers of each pair, counted through all rows.
    """

    prompts: list[Ids] = field(default_factory=list)
    answers: list[list[Ids]] = field(default_factory=list)
    better: list[int] = field(default_factory=list)
    worse: list[int] = field(default_factory=list)


def ranked(pairs: Pairs, indices: Sequence[int]) -> Ranked:
    """Reconstruct the ranked lists that these pairs were made from, without answers that occur in no pair.

    A list of K answers gives K (K - 1) / 2 pairs, but only K sequences that the model needs to read.
    """
    lists, row_of = Ranked(), dict[int, int]()
    answer_numbers: list[dict[bytes, int]] = []  # for each row: the ids of an answer -> its number in the row
    local: list[tuple[int, int, int]] = []
    for index in indices:
        row = row_of.setdefault(int(pairs.lists[index]), len(row_of))
        if row == len(answer_numbers):
            answer_numbers.append({})
            lists.prompts.append(pairs.prompts[index])
            lists.answers.append([])
        chosen, rejected = (
            _number_of(answer, answer_numbers[row], lists.answers[row])
            for answer in (pairs.answers["chosen"][index], pairs.answers["rejected"][index])
        )
        local.append((row, chosen, rejected))
    starts = np.cumsum([0, *(len(answers) for answers in lists.answers)]).tolist()
    lists.better = [starts[row] + chosen for row, chosen, _ in local]
    lists.worse = [starts[row] + rejected for row, _, rejected in local]
    return lists


def _number_of(answer: Ids, numbers: dict[bytes, int], answers: list[Ids]) -> int:
    """The number of `answer` among `answers`, to which it is appended if it is new."""
    number = numbers.setdefault(np.asarray(answer, np.int64).tobytes(), len(answers))
    if number == len(answers):
        answers.append(answer)
    return number
