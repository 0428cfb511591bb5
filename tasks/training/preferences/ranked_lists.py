"""Ranked lists of answers, reconstructed from their pairs: each prompt once, and each of its answers once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.answers import Ids
from tasks.pairs import Pairs


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
