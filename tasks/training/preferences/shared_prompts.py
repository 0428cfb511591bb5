"""A prompt with several answers in one row: the prompt is read once, and no answer sees another.

Halves the work of preference pairs, whose two sequences begin alike. An answer's tokens attend to the prompt and to the
answer itself, at the positions they would have alone, so that nothing but the cost changes.
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
    """One row per prompt with all its answers; `dtype`, of the mask, is that of the model. No prompt may be empty."""
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
            positions[row, start:end] = len(prompt) + np.arange(len(answer))
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
    """0 where a position may look: not ahead, and at the prompt or its own part; -inf elsewhere."""
    key, query = part[:, None, :], part[:, :, None]
    seen = ((key == 0) | (key == query)).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=part.device).masked_fill_(~seen, -torch.inf)[:, None]


@dataclass
class Ranked:
    """Ranked lists as rows for `fork`: each prompt once, each of its answers once, and the pairs between answers.

    better, worse: the numbers of the answers of each pair, counted through all rows.
    """

    prompts: list[Ids] = field(default_factory=list)
    answers: list[list[Ids]] = field(default_factory=list)
    better: list[int] = field(default_factory=list)
    worse: list[int] = field(default_factory=list)


def ranked(pairs: Pairs, indices: Sequence[int]) -> Ranked:
    """The lists that these pairs were cut from, as far as the pairs tell."""
    found, row_of = Ranked(), dict[int, int]()
    places: list[dict[bytes, int]] = []
    local: list[tuple[int, int, int]] = []
    for index in indices:
        row = row_of.setdefault(int(pairs.lists[index]), len(row_of))
        if row == len(places):
            places.append({})
            found.prompts.append(pairs.prompts[index])
            found.answers.append([])
        chosen, rejected = (
            _place(answer, places[row], found.answers[row])
            for answer in (pairs.answers["chosen"][index], pairs.answers["rejected"][index])
        )
        local.append((row, chosen, rejected))
    starts = np.cumsum([0, *(len(answers) for answers in found.answers)]).tolist()
    found.better = [starts[row] + chosen for row, chosen, _ in local]
    found.worse = [starts[row] + rejected for row, _, rejected in local]
    return found


def _place(answer: Ids, places: dict[bytes, int], answers: list[Ids]) -> int:
    """The number of `answer` among `answers`, where it is put if it is new."""
    place = places.setdefault(np.asarray(answer, np.int64).tobytes(), len(answers))
    if place == len(answers):
        answers.append(answer)
    return place
