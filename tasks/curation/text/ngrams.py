"""Runs of tokens by rolling hash: all those of a text that are long enough to prove something, looked up in a table."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.curation.arrays import Int64Array, UInt64Array
from tasks.curation.compiled import kernel
from tasks.curation.text import folding
from tasks.curation.text.shingles import BASE, FINISH
from tasks.curation.text.words import BYTES, HASHES, OFFSETS, TABLE, Texts, padded_buffers, token_hashes

_BASE, _FINISH, _U0, _U1, _U6 = np.uint64(BASE), np.uint64(FINISH), np.uint64(0), np.uint64(1), np.uint64(6)
_U63 = np.uint64(63)
_BITS_PER_ENTRY, _LEAST_BITS = 16, 1 << 12


@dataclass(frozen=True, slots=True)
class NgramTable:
    """An open hash table from the hash of a run to its entry, and before it a bit for each hash that may be there."""

    bits: UInt64Array
    keys: UInt64Array
    entries: Int64Array  # -1 where the slot is free


def build_table(hashes: UInt64Array) -> NgramTable:
    """The table of distinct hashes; the entry of each is its place."""
    size = 1 << max(4, (2 * len(hashes)).bit_length())
    bits = np.zeros(max(_LEAST_BITS, size * _BITS_PER_ENTRY // 2) // 64, np.uint64)
    made = NgramTable(bits, np.zeros(size, np.uint64), np.full(size, -1, np.int64))
    _fill(np.ascontiguousarray(hashes), made.bits, made.keys, made.entries)
    return made


def list_ngrams(texts: Texts, words: int, characters: int) -> tuple[UInt64Array, Int64Array]:
    """All runs of texts: the hash, and (row, first token, number of tokens, whether that is the whole text) of each."""
    hashes, places = [np.empty(0, np.uint64)], [np.empty((0, 4), np.int64)]
    for first, data, offsets in padded_buffers(texts):
        room = int(offsets[-1] - offsets[0]) + 2 * len(offsets)
        found, where = np.empty(room, np.uint64), np.empty((room, 4), np.int64)
        count = _runs(data, offsets, folding.fold_table(), words, characters, found, where)
        where[:count, 0] += first
        hashes.append(found[:count].copy())
        places.append(where[:count].copy())
    return np.concatenate(hashes), np.concatenate(places)


def find_ngrams(data: Any, offsets: Any, words: int, characters: int, known: NgramTable) -> Int64Array:
    """The runs of texts that are in the table: (row, first token, number of tokens, entry) of each, in order."""
    longest = int(np.diff(offsets).max(initial=0))
    parts, first = [], 0
    while first < len(offsets) - 1:
        out = np.empty((longest + 1024, 4), np.int64)
        done, count = _find(
            data, offsets[first:], folding.fold_table(), words, characters, known.bits, known.keys, known.entries, out
        )
        out[:count, 0] += first
        parts.append(out[:count])
        first += done
    return np.concatenate(parts) if parts else np.empty((0, 4), np.int64)


@kernel("uint64(uint64, int64)", inline="always")
def _slot(key: Any, size: int) -> Any:
    return ((key ^ (key >> np.uint64(32))) * _FINISH >> np.uint64(20)) & np.uint64(size - 1)


@kernel(f"void({HASHES}, {HASHES}, {HASHES}, int64[::1])")
def _fill(hashes: Any, bits: Any, keys: Any, entries: Any) -> None:
    for entry in range(len(hashes)):
        bit = _slot(hashes[entry], 64 * len(bits))
        bits[bit >> _U6] |= _U1 << (bit & _U63)
        slot = _slot(hashes[entry], len(keys))
        while entries[slot] >= 0:
            slot = (slot + _U1) & np.uint64(len(keys) - 1)
        keys[slot], entries[slot] = hashes[entry], entry


@kernel(f"int64(uint64, {HASHES}, {HASHES}, int64[::1])", inline="always")
def _entry(key: Any, bits: Any, keys: Any, entries: Any) -> Any:
    bit = _slot(key, 64 * len(bits))
    if bits[bit >> _U6] >> (bit & _U63) & _U1 == _U0:
        return -1
    slot = _slot(key, len(keys))
    while entries[slot] >= 0 and keys[slot] != key:
        slot = (slot + _U1) & np.uint64(len(keys) - 1)
    return entries[slot]


@kernel(f"int64({HASHES}, int64, int64, boolean, {HASHES}, int64[:, ::1], int64)")
def _windows(tokens: Any, count: int, size: int, wide: bool, hashes: Any, where: Any, found: int) -> Any:
    """Append the runs of `size` tokens most of which are characters (`wide`), or at least half of which are words."""
    last = _U1
    for _ in range(size):
        last *= _BASE
    h, singles = _U0, np.int64(0)
    for i in range(count):
        h = h * _BASE + tokens[i]
        singles += np.int64(tokens[i] & _U1)
        if i >= size:
            h -= tokens[i - size] * last
            singles -= np.int64(tokens[i - size] & _U1)
        if i >= size - 1 and (2 * singles > size) == wide:
            hashes[found] = h
            where[found, 1], where[found, 2], where[found, 3] = i - size + 1, size, 0
            found += 1
    return found


@kernel(f"int64({HASHES}, int64, int64, int64, {HASHES}, int64[:, ::1])")
def _text_runs(tokens: Any, count: int, words: int, characters: int, hashes: Any, where: Any) -> Any:
    """All runs of one text, and at last the text as a whole."""
    if count == 0:
        return 0
    whole, singles = _U0, np.int64(0)
    for i in range(count):
        whole = whole * _BASE + tokens[i]
        singles += np.int64(tokens[i] & _U1)
    found = 0
    if 2 * (count - singles) >= words:
        found = _windows(tokens, count, words, False, hashes, where, found)
    if 2 * singles > characters:
        found = _windows(tokens, count, characters, True, hashes, where, found)
    hashes[found] = whole
    where[found, 1], where[found, 2], where[found, 3] = 0, count, 1
    return found + 1


@kernel(f"int64({BYTES}, {OFFSETS}, {TABLE}, int64, int64, {HASHES}, int64[:, ::1])")
def _runs(data: Any, offsets: Any, table: Any, words: int, characters: int, hashes: Any, where: Any) -> Any:
    found = 0
    for row in range(len(offsets) - 1):
        tokens = np.empty(offsets[row + 1] - offsets[row] + 1, np.uint64)
        count = token_hashes(data, offsets[row], offsets[row + 1], table, tokens)
        more = _text_runs(tokens, count, words, characters, hashes[found:], where[found:])
        for i in range(found, found + more):
            where[i, 0] = row
        found += more
    return found


@kernel(f"UniTuple(int64, 2)({BYTES}, {OFFSETS}, {TABLE}, int64, int64, {HASHES}, {HASHES}, int64[::1], int64[:, ::1])")
def _find(
    data: Any,
    offsets: Any,
    table: Any,
    words: int,
    characters: int,
    bits: Any,
    keys: Any,
    entries: Any,
    out: Any,
) -> Any:
    """Look up the runs of texts until `out` might not hold those of the next one; texts done, and runs found."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    tokens, hashes = np.empty(longest + 1, np.uint64), np.empty(longest + 2, np.uint64)
    where = np.empty((longest + 2, 4), np.int64)
    found = 0
    for row in range(len(offsets) - 1):
        if found + offsets[row + 1] - offsets[row] + 2 > len(out):
            return row, found
        count = token_hashes(data, offsets[row], offsets[row + 1], table, tokens)
        for i in range(_text_runs(tokens, count, words, characters, hashes, where)):
            entry = _entry(hashes[i], bits, keys, entries)
            if entry >= 0:
                out[found, 0], out[found, 1], out[found, 2], out[found, 3] = row, where[i, 1], where[i, 2], entry
                found += 1
    return len(offsets) - 1, found
