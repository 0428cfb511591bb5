"""Join lists of ids to streams (tasks/tokens.py).

Documents are concatenated and cut into rows anywhere. Conversations are packed whole into rows by best-fit decreasing,
because the loss of an answer without its question would teach the model to guess. The lengths of all conversations
determine the rows, so the tokens wait in a file until all are encoded.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tasks.tokenization.fit_kernels import best_fit_starts
from tasks.tokens import Stream, ids_dtype

IdArray = npt.NDArray[np.integer[Any]]
Int64Array = npt.NDArray[np.int64]
UInt32Array = npt.NDArray[np.uint32]

PART_TOKENS = 1 << 18  # tokens of the rows that are made at once
_MASK_SHIFT, _ID_BITS = np.uint32(31), np.uint32((1 << 31) - 1)  # an entry is the loss mask << 31 | id


def concatenate(documents: Sequence[IdArray], vocab_size: int) -> Stream:
    """Concatenate documents. Every token except the first of each document is a target."""
    starts = np.concatenate(([0], np.cumsum([len(ids) for ids in documents]))).astype(np.int64)
    return document_stream(np.concatenate([np.zeros(0, np.int64), *documents]), starts, vocab_size)


def document_stream(ids: IdArray, starts: Int64Array, vocab_size: int) -> Stream:
    """Return the stream of documents that are already concatenated; starts: [num_documents + 1]."""
    positions = _positions(np.diff(starts))
    return Stream(ids.astype(ids_dtype(vocab_size), copy=False), positions, (positions > 0).astype(np.uint8))


class Lists(Protocol):
    """Lists of tokens, from which rows are made."""

    def read(self, index: int, entries: UInt32Array) -> None:
        """Write the first tokens of list `index`, as many as there are `entries`, each as loss mask << 31 | id."""


class StoredLists:
    """Lists of tokens in a temporary file in `folder`, which is removed when it is closed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `close` closes it
        self._lengths: list[Int64Array] = []
        self._offsets = np.zeros(0, np.int64)

    def append(self, ids: UInt32Array, mask: npt.NDArray[np.uint8], starts: Int64Array) -> None:
        """Append concatenated lists; starts: [num_lists + 1]."""
        self._file.write((ids | mask.astype(np.uint32) << _MASK_SHIFT).data)
        self._lengths.append(np.diff(starts))

    def finish(self) -> Int64Array:
        """Return the length of each list. No list is appended afterwards."""
        self._file.flush()
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        self._lengths, self._offsets = [], 4 * (np.cumsum(lengths) - lengths)
        return lengths

    def read(self, index: int, entries: UInt32Array) -> None:
        """Write the first tokens of list `index`, as `Lists` says."""
        num_bytes = os.preadv(self._file.fileno(), [entries.data], int(self._offsets[index]))
        assert num_bytes == entries.nbytes, (num_bytes, entries.nbytes)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


class ListsInMemory:
    """Lists of tokens in memory: (ids, loss mask)."""

    def __init__(self, lists: Sequence[tuple[IdArray, npt.NDArray[np.uint8]]]) -> None:
        self._lists = lists

    def read(self, index: int, entries: UInt32Array) -> None:
        """Write the first tokens of list `index`, as `Lists` says."""
        ids, mask = self._lists[index]
        size = len(entries)
        entries[:] = ids[:size].astype(np.uint32) | mask[:size].astype(np.uint32) << _MASK_SHIFT


@dataclass(frozen=True, slots=True)
class Plan:
    """Which lists share a row. A list longer than a row is truncated at its end.

    lengths, starts: how many tokens of each list are in the stream, and where they start, both [num_lists].
    num_truncated, num_padding: tokens that are removed, and that fill rows.
    """

    row_length: int
    num_rows: int
    lengths: Int64Array
    starts: Int64Array
    num_truncated: int
    num_padding: int


def plan_rows(full_lengths: Int64Array, row_length: int, seed: int) -> Plan:
    """Distribute lists over rows of `row_length` tokens. `seed` determines which lists share a row."""
    lengths = np.minimum(full_lengths, row_length)
    order = np.random.default_rng(seed).permutation(len(lengths))
    starts = np.empty(len(lengths), np.int64)
    starts[order], num_rows = best_fit_starts(lengths[order], row_length)
    num_tokens = int(lengths.sum())
    num_truncated = int(full_lengths.sum()) - num_tokens
    return Plan(row_length, num_rows, lengths, starts, num_truncated, num_rows * row_length - num_tokens)


def packed_parts(plan: Plan, lists: Lists, pad: int, vocab_size: int) -> Iterator[Stream]:
    """Yield the rows of a plan, about PART_TOKENS tokens at a time.

    Positions restart at 0 in each list, by which attention keeps the lists of a row separate.
    """
    part_size = max(1, PART_TOKENS // plan.row_length) * plan.row_length
    order = np.argsort(plan.starts)
    firsts = range(0, plan.num_rows * plan.row_length, part_size)
    bounds = np.searchsorted(plan.starts, [*firsts, plan.num_rows * plan.row_length], sorter=order)
    for part, first in enumerate(firsts):
        indices = order[bounds[part] : bounds[part + 1]]
        lengths, starts = plan.lengths[indices], plan.starts[indices] - first
        entries = np.full(min(part_size, plan.num_rows * plan.row_length - first), pad, np.uint32)
        for index, start, length in zip(indices.tolist(), starts.tolist(), lengths.tolist(), strict=True):
            lists.read(index, entries[start : start + length])
        positions, positions_in_lists = np.zeros(len(entries), np.uint32), _positions(lengths)
        positions[np.repeat(starts, lengths) + positions_in_lists] = positions_in_lists
        ids: IdArray = (entries & _ID_BITS).astype(ids_dtype(vocab_size))
        yield Stream(ids, positions, (entries >> _MASK_SHIFT).astype(np.uint8))


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
    plan = plan_rows(np.array([len(ids) for ids, _ in lists], np.int64), row_length, seed)
    parts = [_empty_stream(vocab_size), *packed_parts(plan, ListsInMemory(lists), pad, vocab_size)]
    ids: IdArray = np.concatenate([part.ids for part in parts])
    stream = Stream(
        ids,
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.loss_mask for part in parts]),
    )
    return PackedStream(stream, plan.num_rows, plan.num_truncated, plan.num_padding, plan.starts, plan.lengths)


def _positions(lengths: Int64Array) -> UInt32Array:
    """Return 0, 1, 2 ... for each length, concatenated: [2, 3] -> 0 1 0 1 2."""
    ends = np.cumsum(lengths)
    starts = np.repeat(ends - lengths, lengths)
    return (np.arange(len(starts)) - starts).astype(np.uint32)


def _empty_stream(vocab_size: int) -> Stream:
    return Stream(np.zeros(0, ids_dtype(vocab_size)), np.zeros(0, np.uint32), np.zeros(0, np.uint8))
