"""Shingles: runs of neighboring tokens, hashed from the text on and signed by MinHash in datasketch's affine32 scheme.

The contract, on top of that of `words`:

- A shingle is `size` neighboring tokens with hashes w. Its 64-bit hash is the sum of w_i * BASE^(size-1-i) modulo
  2^64; its 32-bit hash, the one that MinHash is given, the upper half of (h ^ h >> 32) * FINISH modulo 2^64.
- A text with fewer than `size` tokens has no shingles; its signature says so by a count of 0 and must equal no other.
- Signatures (Broder 1997) are those of `datasketch.MinHash(scheme="affine32")` with `shingle_hash` as `hashfunc`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tasks.curation.arrays import Int64Array, UInt32Array, UInt64Array
from tasks.curation.compiled import kernel
from tasks.curation.text import folding
from tasks.curation.text.words import (
    BYTES,
    HASHES,
    MASK64,
    OFFSETS,
    TABLE,
    Texts,
    padded_buffers,
    token_hash,
    token_hashes,
    tokens,
)

BASE, FINISH = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB
_BASE, _FINISH, _U32 = np.uint64(BASE), np.uint64(FINISH), np.uint64(32)
_EMPTY = np.uint32(0xFFFFFFFF)
_M1, _M2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)

Signatures = UInt32Array


def shingle_hash(shingle: Sequence[str]) -> int:
    """The 32-bit hash of a shingle of folded tokens, in plain Python: `hashfunc` for datasketch."""
    return hash_shingle([token_hash(token) for token in shingle])


def hash_shingle(hashes: Sequence[int]) -> int:
    """The 32-bit hash of a shingle whose tokens have these hashes."""
    h = 0
    for each in hashes:
        h = (h * BASE + each) & MASK64
    return (((h ^ (h >> 32)) * FINISH) & MASK64) >> 32


def shingles(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """The shingles of a text, in plain Python."""
    words = list(tokens(text))
    return (tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def compute_signatures(texts: Texts, size: int, permutations: UInt32Array) -> tuple[Signatures, Int64Array]:
    """MinHash signatures uint32[n, num_permutations], and the number of shingles (with repeats) of each text."""
    out = np.empty((len(texts), permutations.shape[1]), np.uint32)
    counts = np.empty(len(texts), np.int64)
    a, b = np.ascontiguousarray(permutations[0]), np.ascontiguousarray(permutations[1])
    for first, data, offsets in padded_buffers(texts):
        rows = slice(first, first + len(offsets) - 1)
        _sign(data, offsets, folding.fold_table(), size, a, b, out[rows], counts[rows])
    return out, counts


def shingle_sets(texts: Texts, size: int) -> tuple[UInt64Array, Int64Array]:
    """The sets of 64-bit shingle hashes of all texts in one array, each sorted, and their n + 1 offsets."""
    hashes, counts = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for _, data, offsets in padded_buffers(texts):
        found = np.empty((offsets[-1] - offsets[0] + len(offsets)) // 2 + 1, np.uint64)
        number = np.empty(len(offsets) - 1, np.int64)
        _list(data, offsets, folding.fold_table(), size, found, number)
        for end, count in zip(np.cumsum(number), number, strict=True):
            found[end - count : end].sort()
        hashes.append(found[: _distinct(found, number)].copy())
        counts.append(number)
    return np.concatenate(hashes), np.cumsum(np.concatenate(counts))


@kernel(f"int64({HASHES}, int64, int64, {HASHES})")
def roll(tokens: Any, count: int, size: int, out: Any) -> Any:
    """The 64-bit hashes of the shingles of tokens[:count] into `out`; their number."""
    last = np.uint64(1)
    for _ in range(size):
        last *= _BASE
    h = np.uint64(0)
    for i in range(count):
        h = h * _BASE + tokens[i]
        if i >= size:
            h -= tokens[i - size] * last
        if i >= size - 1:
            out[i - size + 1] = h
    return max(count - size + 1, 0)


@kernel("uint32(uint64)", inline="always")
def _mixed(h: Any) -> Any:
    """The 32-bit hash of a shingle, and on it the finalizer of MurmurHash3 that affine32 starts with."""
    x = np.uint32(((h ^ (h >> _U32)) * _FINISH) >> _U32)
    x = np.uint32((x ^ (x >> np.uint32(16))) * _M1)
    x = np.uint32((x ^ (x >> np.uint32(13))) * _M2)
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel(f"void({HASHES}, int64, {TABLE}, {TABLE}, uint32[::1])")
def _permute(hashes: Any, count: int, a: Any, b: Any, signature: Any) -> None:
    for start in range(0, count, 4):
        h0, h1 = _mixed(hashes[start]), _mixed(hashes[start + 1])
        h2, h3 = _mixed(hashes[start + 2]), _mixed(hashes[start + 3])
        for k in range(len(signature)):
            first = min(np.uint32(a[k] * h0 + b[k]), np.uint32(a[k] * h1 + b[k]))
            second = min(np.uint32(a[k] * h2 + b[k]), np.uint32(a[k] * h3 + b[k]))
            signature[k] = min(signature[k], min(first, second))


@kernel(f"int64({OFFSETS})")
def _longest(offsets: Any) -> Any:
    longest = 0
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return longest


@kernel(f"void({BYTES}, {OFFSETS}, {TABLE}, int64, {TABLE}, {TABLE}, uint32[:, ::1], int64[::1])")
def _sign(data: Any, offsets: Any, table: Any, size: int, a: Any, b: Any, out: Any, counts: Any) -> None:
    longest = _longest(offsets)
    tokens, hashes = np.empty(longest, np.uint64), np.empty(longest + 8, np.uint64)
    for i in range(len(counts)):
        count = token_hashes(data, offsets[i], offsets[i + 1], table, tokens)
        count = roll(tokens, count, size, hashes)
        counts[i] = count
        signature = out[i]
        signature[:] = _EMPTY
        if count:
            hashes[count : count + 8] = hashes[0]  # repeats change no minimum and fill the last block
            _permute(hashes, count, a, b, signature)


@kernel(f"void({BYTES}, {OFFSETS}, {TABLE}, int64, {HASHES}, int64[::1])")
def _list(data: Any, offsets: Any, table: Any, size: int, out: Any, counts: Any) -> None:
    tokens = np.empty(_longest(offsets), np.uint64)
    end = 0
    for i in range(len(counts)):
        count = token_hashes(data, offsets[i], offsets[i + 1], table, tokens)
        counts[i] = roll(tokens, count, size, out[end:])
        end += counts[i]


@kernel(f"int64({HASHES}, int64[::1])")
def _distinct(hashes: Any, counts: Any) -> Any:
    """Squeeze repeats out of sorted runs, in place; the new total. `counts` becomes the sizes of the sets."""
    start, end = 0, 0
    for i in range(len(counts)):
        first = end
        for j in range(start, start + counts[i]):
            if j == start or hashes[j] != hashes[end - 1]:
                hashes[end] = hashes[j]
                end += 1
        start += counts[i]
        counts[i] = end - first
    return end
