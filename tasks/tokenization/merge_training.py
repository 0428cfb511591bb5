"""Learn the merges of byte-level BPE (arXiv:1508.07909) from counts of words, with the result of `tokenizers`.

The library's trainer reads all texts in one process and accepts no counts. Like it, this one merges the most frequent
pair of tokens next, of equally frequent ones the pair of the smallest ids, and finds the words that contain a pair in
lists that are extended whenever a merge forms the pair.
"""

import heapq
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import models

from tasks.compiled import kernel
from tasks.tokenization import bpe
from tasks.tokenization.compiled_bpe import byte_characters
from tasks.tokenization.patterns import Int64Array

Int32Array = npt.NDArray[np.int32]
_BITS = 32  # a pair of tokens is one number: first << 32 | second


def train(counts: pa.Table, vocab_size: int, min_frequency: int = 2) -> Any:
    """Return the tokenizer that `bpe.train` makes of texts with these counts of words. Raises BadParams.

    counts: the columns `word`, bytes of UTF-8, and `count`.
    """
    characters = byte_characters()
    names = [*bpe.SPECIAL, *sorted(characters)]
    ids = {name: place for place, name in enumerate(names)}
    byte_ids = np.array([ids[character] for character in characters], np.int32)
    merges = dict[tuple[str, str], None]()
    words = _Words(counts["word"].combine_chunks(), counts["count"].to_numpy(), byte_ids)
    queue = words.first_pairs()
    while len(names) < vocab_size and (pair := words.most_frequent(queue, min_frequency)):
        first, second = (names[token] for token in pair)
        token = ids.setdefault(first + second, len(names))  # two pairs of tokens may form the same token
        if token == len(names):
            names.append(first + second)
        merges.pop((first, second), None)  # a pair that is merged again has the place of its last merge
        merges[first, second] = None
        words.merge(queue, pair, token)
    tokenizer = bpe.untrained()
    tokenizer.model = models.BPE(ids, list(merges))
    tokenizer.add_special_tokens(list(bpe.SPECIAL))
    return bpe.finish(tokenizer, vocab_size, min_frequency)


_Queue = list[tuple[int, int, int, Int32Array]]
"""A heap of (-number of occurrences, pair, serial number, words that contain the pair)."""


class _Words:
    """All words as tokens: those of word i are symbols[starts[i] : starts[i] + sizes[i]]; it occurs counts[i] times."""

    def __init__(self, words: pa.Array, counts: Int64Array, byte_ids: Int32Array) -> None:
        _, offsets, data = words.buffers()
        bounds = np.frombuffer(offsets, np.int64)[words.offset :][: len(words) + 1]
        self._symbols = byte_ids[np.frombuffer(data or b"", np.uint8)[bounds[0] : bounds[-1]]]
        self._starts, self._sizes, self._counts = bounds[:-1] - bounds[0], np.diff(bounds), counts
        self._pair_counts, self._num_queued = dict[int, int](), 0

    def first_pairs(self) -> _Queue:
        """Return the pairs of bytes."""
        rows = np.repeat(np.arange(len(self._sizes), dtype=np.int32), self._sizes)
        is_pair, queue = rows[1:] == rows[:-1], _Queue()
        pairs = self._symbols[:-1].astype(np.int64) << _BITS | self._symbols[1:]
        self._add(queue, pairs[is_pair], rows[1:][is_pair], np.ones(int(is_pair.sum()), np.int64))
        return queue

    def most_frequent(self, queue: _Queue, min_frequency: int) -> tuple[int, int] | None:
        """Return the next pair to merge, which becomes the first one of the queue; None without a frequent one."""
        while queue:
            count, pair, serial, rows = queue[0]
            now = self._pair_counts[pair]
            if now == -count:
                return (pair >> _BITS, pair & (1 << _BITS) - 1) if now >= max(1, min_frequency) else None
            heapq.heapreplace(queue, (-now, pair, serial, rows))  # later merges have changed the number
        return None

    def merge(self, queue: _Queue, pair: tuple[int, int], token: int) -> None:
        """Replace the first pair of the queue by `token` in its words, and queue the pairs that this forms."""
        rows = heapq.heappop(queue)[-1]
        changes = np.empty((2 * int(self._sizes[rows].sum()), 3), np.int64)
        num_changes = _merge(self._symbols, self._starts, self._sizes, rows, *pair, token, changes)
        pairs, changed_rows, signs = changes[:num_changes].T
        self._add(queue, pairs, changed_rows.astype(np.int32), signs)

    def _add(self, queue: _Queue, pairs: Int64Array, rows: Int32Array, signs: Int64Array) -> None:
        """Count one more (1) or less (-1) of each pair in words `rows`, and queue those of which there are more."""
        order = np.argsort(pairs, kind="stable")
        pairs, rows, signs = pairs[order], rows[order], signs[order]
        firsts = np.flatnonzero(np.diff(pairs, prepend=-1))
        sums = np.add.reduceat(signs * self._counts[rows], firsts) if len(firsts) else firsts
        for pair, change in zip(pairs[firsts].tolist(), sums.tolist(), strict=True):
            self._pair_counts[pair] = self._pair_counts.get(pair, 0) + change
        for pair, with_pair in _groups(pairs[signs > 0], rows[signs > 0]):
            if (count := self._pair_counts[pair]) > 0:
                heapq.heappush(queue, (-count, pair, self._num_queued, with_pair))
                self._num_queued += 1


def _groups(pairs: Int64Array, rows: Int32Array) -> Iterator[tuple[int, Int32Array]]:
    """Yield each pair with its distinct words. Equal pairs are neighbors, and so are equal words of a pair."""
    is_new = (np.diff(pairs, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 0)
    pairs, rows = pairs[is_new], rows[is_new]
    bounds = [*np.flatnonzero(np.diff(pairs, prepend=-1)).tolist(), len(pairs)]
    return ((int(pairs[begin]), rows[begin:end].copy()) for begin, end in pairwise(bounds))


@kernel("int64(int32[::1], int64[::1], int64[::1], int32[::1], int64, int64, int64, int64[:, ::1])")
def _merge(
    symbols: Int32Array,
    starts: Int64Array,
    sizes: Int64Array,
    rows: Int32Array,
    first: int,
    second: int,
    token: int,
    changes: Int64Array,
) -> int:
    """Replace each `first` that `second` follows by `token`, from left to right, in some words.

    Write (pair, word, 1 or -1) for each neighboring pair that this forms or ends to `changes`; return their number.
    """
    num_changes = 0
    for row in rows:
        begin, size, i, kept = starts[row], sizes[row], 0, 0
        while i < size:
            is_pair = i + 1 < size and symbols[begin + i] == first and symbols[begin + i + 1] == second
            if is_pair and kept > 0:
                before = np.int64(symbols[begin + kept - 1]) << _BITS
                changes[num_changes, 0], changes[num_changes, 1], changes[num_changes, 2] = before | first, row, -1
                num_changes += 1
                changes[num_changes, 0], changes[num_changes, 1], changes[num_changes, 2] = before | token, row, 1
                num_changes += 1
            if is_pair and i + 2 < size:
                after = np.int64(symbols[begin + i + 2])
                changes[num_changes, 0], changes[num_changes, 1] = second << _BITS | after, row
                changes[num_changes, 2] = -1
                num_changes += 1
                changes[num_changes, 0], changes[num_changes, 1] = token << _BITS | after, row
                changes[num_changes, 2] = 1
                num_changes += 1
            symbols[begin + kept] = token if is_pair else symbols[begin + i]
            i += 2 if is_pair else 1
            kept += 1
        sizes[row] = kept
    return num_changes
