"""Preference pairs as token ids, and the order in which a run takes them: a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks import tokens
from tasks.errors import NothingLeft
from tasks.files import read_json

Side = Literal["chosen", "rejected"]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Prompts with a chosen and a rejected answer each, every answer with its end token.

    reasons: why the chosen one is better, "" where nobody said. lists: [pairs], the ranked list that a pair was cut
    from; a pair alone is its own list. num_too_long: pairs that were left out.
    """

    prompts: list[tokens.Ids]
    answers: dict[Side, list[tokens.Ids]]
    reasons: list[str]
    lists: Indices
    num_too_long: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def sequence(self, index: int, side: Side) -> tokens.Ids:
        """The prompt of pair `index` and its answer of that side, as one array."""
        return np.concatenate((self.prompts[index], self.answers[side][index]))

    def mismatched(self) -> list[tokens.Ids]:
        """For each prompt an answer that does not belong to it: the chosen one of the next pair."""
        return [*self.answers["chosen"][1:], self.answers["chosen"][0]]

    def answer_lengths(self, side: Side) -> Indices:
        """Tokens of each answer of that side: [pairs]."""
        return np.array([len(ids) for ids in self.answers[side]], np.int64)

    def lengths(self) -> Indices:
        """Tokens of the longer sequence of each pair: [pairs]."""
        prompts = np.array([len(ids) for ids in self.prompts], np.int64)
        return prompts + np.maximum(self.answer_lengths("chosen"), self.answer_lengths("rejected"))


def read(folder: Path, max_length: int) -> Pairs:
    """The pairs that tokenization wrote into `folder`, without those longer than `max_length` tokens (see `lengths`).

    Raises BadInput where the files are missing, NothingLeft where no pair is left.
    """
    prompts, chosen, rejected = (tokens.read_ragged(folder / name) for name in ("prompt", "chosen", "rejected"))
    longest = np.maximum(np.diff(chosen.offsets), np.diff(rejected.offsets)) + np.diff(prompts.offsets)
    kept = np.flatnonzero(longest <= max_length).tolist()
    if len(kept) == 0:
        said = f"all {len(prompts)} are longer than {max_length} tokens" if len(prompts) else "there are none"
        raise NothingLeft(f"no preference pair to use in {folder}: {said}")
    reasons, lists = read_json(folder / "reasons.json"), np.arange(len(prompts))
    if (folder / "lists.json").is_file():
        _, lists = np.unique(_named(read_json(folder / "lists.json")), return_inverse=True)
    answers: dict[Side, list[tokens.Ids]] = {
        "chosen": [chosen[i] for i in kept],
        "rejected": [rejected[i] for i in kept],
    }
    return Pairs(
        [prompts[i] for i in kept],
        answers,
        [reasons[i] for i in kept],
        lists[kept].astype(np.int64),
        len(prompts) - len(kept),
    )


def read_if_any(folder: Path, max_length: int) -> Pairs | None:
    """As `read`, but None where no pair is left."""
    try:
        return read(folder, max_length)
    except NothingLeft:
        return None


def _named(lists: Sequence[str | None]) -> list[str]:
    """A name for every pair's list; a pair without one gets a name of its own."""
    return [f"list {name}" if name else f"pair {index}" for index, name in enumerate(lists)]


def step_order(count: int, batch_size: int, step: int, seed: int) -> Indices:
    """Which of `count` records the step takes, [batch_size]: shuffled anew every epoch, each record once an epoch."""
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    parts = [
        _epoch(count, epoch, seed)[wanted[wanted // count == epoch] % count] for epoch in np.unique(wanted // count)
    ]
    return np.concatenate(parts)


def _epoch(count: int, epoch: int, seed: int) -> Indices:
    order: Indices = np.random.default_rng([seed, int(epoch)]).permutation(count)
    return order


def micro_batches(indices: Indices, lengths: npt.NDArray[Any], size: int | None) -> Iterator[Indices]:
    """`indices` in parts of at most `size`, those of like length together, so that little is padding."""
    ordered = indices[np.argsort(lengths, kind="stable")]
    size = size or len(ordered)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
