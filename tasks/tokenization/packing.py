"""Join lists of ids to streams (tasks/tokens.py), with NumPy only.

Documents are concatenated and cut into rows anywhere. Conversations are packed whole into rows by best-fit decreasing,
because the loss of an answer without its question would teach the model to guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.tokens import Stream, best_fit, ids_dtype

IdArray = npt.NDArray[np.integer[Any]]


def concatenate(documents: Sequence[IdArray], vocab_size: int) -> Stream:
    """Concatenate documents. Every token except the first of each document is a target."""
    if not documents:
        return _empty_stream(vocab_size)
    positions = _positions([len(ids) for ids in documents])
    return Stream(np.concatenate(documents).astype(ids_dtype(vocab_size)), positions, (positions > 0).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class PackedStream:
    """A stream of complete rows. num_truncated: tokens removed from lists longer than a row.

    starts, lengths: where each list is in the stream, and how many of its tokens, [num_lists].
    """

    stream: Stream
    num_rows: int
    num_truncated: int
    num_padding: int
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def pack(
    lists: Sequence[tuple[IdArray, npt.NDArray[np.uint8]]], row_length: int, pad: int, vocab_size: int, seed: int
) -> PackedStream:
    """Pack whole lists (ids, loss mask) into rows of `row_length` tokens.

    Positions restart at 0 in each list, by which attention keeps the lists of a row separate. A list longer than a row
    is truncated at its end. `seed` determines which lists share a row.
    """
    if not lists:
        nothing = np.zeros(0, np.int64)
        return PackedStream(_empty_stream(vocab_size), 0, 0, 0, nothing, nothing)
    full_lengths = np.array([len(ids) for ids, _ in lists])
    lengths = np.minimum(full_lengths, row_length)
    order = np.random.default_rng(seed).permutation(len(lists))
    rows = best_fit(lengths[order], row_length)
    size = len(rows) * row_length
    ids, positions = np.full(size, pad, ids_dtype(vocab_size)), np.zeros(size, np.uint32)
    mask, starts = np.zeros(size, np.uint8), np.zeros(len(lists), np.int64)
    for row_number, row in enumerate(rows):
        start = row_number * row_length
        for index in order[row]:
            starts[index], part = start, slice(start, start + lengths[index])
            ids[part], mask[part] = lists[index][0][:row_length], lists[index][1][:row_length]
            positions[part] = np.arange(lengths[index])
            start += lengths[index]
    num_truncated = int((full_lengths - lengths).sum())
    return PackedStream(
        Stream(ids, positions, mask), len(rows), num_truncated, size - int(lengths.sum()), starts, lengths
    )


def _positions(lengths: Sequence[int]) -> npt.NDArray[np.uint32]:
    """Return 0, 1, 2 ... for each length, concatenated: [2, 3] -> 0 1 0 1 2."""
    ends = np.cumsum(lengths)
    starts = np.repeat(ends - lengths, lengths)
    return (np.arange(ends[-1]) - starts).astype(np.uint32)


def _empty_stream(vocab_size: int) -> Stream:
    return Stream(np.zeros(0, ids_dtype(vocab_size)), np.zeros(0, np.uint32), np.zeros(0, np.uint8))
