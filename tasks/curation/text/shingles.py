"""Hash shingles, the runs of `size` neighboring tokens of a text, and compute MinHash signatures of their sets.

Contract, in addition to that of `words`:

- The 64-bit hash of a shingle whose tokens have the hashes w is the sum of w_i * BASE^(size-1-i) modulo 2^64. Its
  32-bit hash, which MinHash receives, is the upper half of (h ^ h >> 32) * FINISH modulo 2^64.
- A text with fewer than `size` tokens has no shingles. Its count is 0, and its signature must not be compared.
- Tokens are words, so that `x + 1` and `x - 1` are equal. In the sets of `shingle_sets`, which decide whether a pair is
  alike, the shingles of a short text are therefore combined with the sequence of its operators.
- Signatures (Broder 1997) are those of `datasketch.MinHash(scheme="affine32")` with `shingle_hash` as `hashfunc`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Int64Array, UInt8Array, UInt32Array, UInt64Array
from tasks.curation.text import folding
from tasks.curation.text.words import (
    BYTES,
    HASHES,
    MASK64,
    OFFSETS,
    TABLE,
    Texts,
    decode_code_point,
    padded_buffers,
    token_hash,
    token_hashes,
    tokens,
)

BASE, FINISH = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB
_BASE, _FINISH, _U32 = np.uint64(BASE), np.uint64(FINISH), np.uint64(32)
_EMPTY = np.uint32(0xFFFFFFFF)
_MURMUR1, _MURMUR2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
# In a text with at most this many shingles, one operator changes so many of them (5 of 45, which leaves a similarity of
# .8) that texts with other operators are not alike.
_MAX_SHORT = 40
_OPERATORS = tuple(map(ord, "*+<=>^|~×÷±≤≥≠"))
_SIGNS = tuple(map(ord, "-/−"))  # operators beside a number, but not between the digits of a date; otherwise dashes
_SPACE, _ZERO, _NINE = ord(" "), ord("0"), ord("9")
_FULL_WIDTH, _FIRST_ASCII = 0xFF01, 0x21  # full-width ASCII, from "！" on
_BLOCK = 4  # shingles that `_update_signature` reads at a time


def shingle_hash(shingle: Sequence[str]) -> int:
    """Return the 32-bit hash of a shingle of folded tokens, in plain Python: the `hashfunc` for datasketch."""
    return hash_shingle([token_hash(token) for token in shingle])


def hash_shingle(hashes: Sequence[int]) -> int:
    """Return the 32-bit hash of a shingle whose tokens have these hashes."""
    h = 0
    for each in hashes:
        h = (h * BASE + each) & MASK64
    return (((h ^ (h >> 32)) * FINISH) & MASK64) >> 32


def shingles(text: str, size: int) -> Iterator[tuple[str, ...]]:
    """Yield the shingles of a text, in plain Python."""
    words = list(tokens(text))
    return (tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def compute_signatures(texts: Texts, size: int, permutations: UInt32Array) -> tuple[UInt32Array, Int64Array]:
    """Return signatures uint32 [n, num_permutations] and the number of shingles (with repeats) of each text.

    permutations: uint32 [2, num_permutations], the factors and the summands of the hash functions.
    """
    signatures = np.empty((len(texts), permutations.shape[1]), np.uint32)
    counts = np.empty(len(texts), np.int64)
    a, b = np.ascontiguousarray(permutations[0]), np.ascontiguousarray(permutations[1])
    for first, data, offsets in padded_buffers(texts):
        rows = slice(first, first + len(offsets) - 1)
        _compute_signatures(data, offsets, folding.fold_table(), size, a, b, signatures[rows], counts[rows])
    return signatures, counts


def shingle_sets(texts: Texts, size: int) -> tuple[UInt64Array, Int64Array]:
    """Return the sets of 64-bit shingle hashes of all texts in one array, each set sorted, and its n + 1 offsets."""
    hashes, counts = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for _, data, offsets in padded_buffers(texts):
        # A word takes at least one byte and a separator; a token of one character takes three bytes.
        buffer_hashes = np.empty((offsets[-1] - offsets[0] + len(offsets)) // 2 + 1, np.uint64)
        buffer_counts = np.empty(len(offsets) - 1, np.int64)
        _list_shingles(data, offsets, folding.fold_table(), size, buffer_hashes, buffer_counts)
        for end, count in zip(np.cumsum(buffer_counts), buffer_counts, strict=True):
            buffer_hashes[end - count : end].sort()
        hashes.append(buffer_hashes[: _remove_repeats(buffer_hashes, buffer_counts)].copy())
        counts.append(buffer_counts)
    return np.concatenate(hashes), np.cumsum(np.concatenate(counts))


@kernel(f"int64({HASHES}, int64, int64, {HASHES})")
def roll(tokens: UInt64Array, count: int, size: int, out: UInt64Array) -> int:
    """Write the 64-bit hashes of the shingles of tokens[:count] to `out`, and return their number.

    A rolling hash (Karp and Rabin 1987): each shingle costs two multiplications, whatever its size. All arithmetic is
    modulo 2^64, so that the subtraction removes the oldest token exactly.
    """
    oldest_power = np.uint64(1)
    for _ in range(size):
        oldest_power *= _BASE
    h = np.uint64(0)
    for i in range(count):
        h = h * _BASE + tokens[i]
        if i >= size:
            h -= tokens[i - size] * oldest_power
        if i >= size - 1:
            out[i - size + 1] = h
    return max(count - size + 1, 0)


@kernel("uint32(uint64)", inline="always")
def _mix_hash(h: np.uint64) -> np.uint32:
    """Return the 32-bit hash of a shingle after the finalizer of MurmurHash3, with which affine32 begins."""
    x = np.uint32(((h ^ (h >> _U32)) * _FINISH) >> _U32)
    x = np.uint32((x ^ (x >> np.uint32(16))) * _MURMUR1)
    x = np.uint32((x ^ (x >> np.uint32(13))) * _MURMUR2)
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel(f"void({HASHES}, int64, {TABLE}, {TABLE}, uint32[::1])")
def _update_signature(hashes: UInt64Array, count: int, a: UInt32Array, b: UInt32Array, signature: UInt32Array) -> None:
    """Lower signature[k] to the minimum of a[k] * h + b[k] (modulo 2^32) over the hashes; reads whole blocks."""
    # 4 hashes at a time, because the inner loop then loads and stores the signature a quarter as often. The inner loop
    # has no branch, so that the compiler turns it into vector instructions.
    for start in range(0, count, _BLOCK):
        h0, h1 = _mix_hash(hashes[start]), _mix_hash(hashes[start + 1])
        h2, h3 = _mix_hash(hashes[start + 2]), _mix_hash(hashes[start + 3])
        for k in range(len(signature)):
            first = min(np.uint32(a[k] * h0 + b[k]), np.uint32(a[k] * h1 + b[k]))
            second = min(np.uint32(a[k] * h2 + b[k]), np.uint32(a[k] * h3 + b[k]))
            signature[k] = min(signature[k], min(first, second))


@kernel(f"int64({OFFSETS})")
def _longest_text(offsets: Int64Array) -> int:
    longest = 0
    for i in range(len(offsets) - 1):
        longest = max(longest, offsets[i + 1] - offsets[i])
    return longest


@kernel(f"void({BYTES}, {OFFSETS}, {TABLE}, int64, {TABLE}, {TABLE}, uint32[:, ::1], int64[::1])")
def _compute_signatures(
    data: UInt8Array,
    offsets: Int64Array,
    table: UInt32Array,
    size: int,
    a: UInt32Array,
    b: UInt32Array,
    signatures: UInt32Array,
    counts: Int64Array,
) -> None:
    longest = _longest_text(offsets)
    tokens, hashes = np.empty(longest, np.uint64), np.empty(longest + 8, np.uint64)
    for i in range(len(counts)):
        count = token_hashes(data, offsets[i], offsets[i + 1], table, tokens)
        count = roll(tokens, count, size, hashes)
        counts[i] = count
        signature = signatures[i]
        signature[:] = _EMPTY
        if count:
            hashes[count : count + 8] = hashes[0]  # fills the last block; a repeated hash changes no minimum
            _update_signature(hashes, count, a, b, signature)


@kernel(f"uint64({BYTES}, int64, int64)")
def _operator_hash(data: UInt8Array, begin: int, end: int) -> np.uint64:
    """Return a hash of the operators of data[begin:end], in their order; 0 if there are none."""
    h = np.uint64(0)
    i, before = begin, np.int64(_SPACE)  # `before`: the last byte that is no space
    while i < end:
        code, size = decode_code_point(data, i)
        after, has_space = i + size, i == begin or data[i - 1] == _SPACE
        if _FULL_WIDTH <= code < _FULL_WIDTH + 0x5F:
            code -= _FULL_WIDTH - _FIRST_ASCII
        if code in _SIGNS:
            while after < end and data[after] == _SPACE:
                after += 1
            is_operator = after < end and _ZERO <= data[after] <= _NINE and (has_space or not _ZERO <= before <= _NINE)
        else:
            is_operator = code in _OPERATORS
        if is_operator:
            h = (h ^ np.uint64(code)) * _BASE + np.uint64(1)
        if data[i] != _SPACE:
            before = np.int64(data[i])
        i += size
    return h


@kernel(f"void({BYTES}, {OFFSETS}, {TABLE}, int64, {HASHES}, int64[::1])")
def _list_shingles(
    data: UInt8Array, offsets: Int64Array, table: UInt32Array, size: int, out: UInt64Array, counts: Int64Array
) -> None:
    """Write the shingle hashes of all texts to `out`, one text after another, and their numbers to `counts`."""
    tokens = np.empty(_longest_text(offsets), np.uint64)
    end = 0
    for i in range(len(counts)):
        count = token_hashes(data, offsets[i], offsets[i + 1], table, tokens)
        counts[i] = roll(tokens, count, size, out[end:])
        if counts[i] <= _MAX_SHORT:
            operators = _operator_hash(data, offsets[i], offsets[i + 1])
            for k in range(end, end + counts[i]):
                out[k] ^= operators
        end += counts[i]


@kernel(f"int64({HASHES}, int64[::1])")
def _remove_repeats(hashes: UInt64Array, counts: Int64Array) -> int:
    """Remove repeats from sorted hashes of several texts, in place, and return the number of all that remain.

    counts: the number of hashes of each text; becomes the number without repeats.
    """
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
