"""Exact duplicates: texts with equal 128-bit xxh3 hashes after their white space is normalized.

Case, width and punctuation still count. Copies that differ in those are found by `minhash.py`.
"""

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tasks.compiled import kernel
from tasks.curation.arrays import Int32Array, Int64Array, UInt8Array, UInt64Array
from tasks.curation.duplicates.ranking import Ids, best_rows
from tasks.curation.text.words import BYTES, OFFSETS, Texts, byte_lengths, chunks, decode_code_point, padded_buffers
from tasks.curation.threads import map_in_threads

Digests = UInt64Array  # [n, 2]

# White space of str.split() beyond ASCII: single code points, and the range of typographic spaces.
_SPACES = (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
_FIRST_SPACE, _LAST_SPACE = 0x2000, 0x200A


def duplicates(texts: Texts, priority: npt.NDArray[Any], ids: Ids | None = None, threads: int = 1) -> Int64Array:
    """Return for each text the row that it repeats, -1 where it is kept: the best by `ranking.ranks` is kept."""
    roots = _first_rows(digests(texts, threads))
    return best_rows(roots, priority, byte_lengths(texts), ids)[0]


def _first_rows(text_digests: Digests) -> Int32Array:
    """Return the first row with the digest of each row."""
    roots = np.arange(len(text_digests), dtype=np.int32)
    order = np.argsort(text_digests[:, 0])
    is_equal = np.diff(text_digests[order, 0]) == 0
    # Few rows share even half of their digest with another one; only these are compared as a whole.
    has_equal = np.zeros(len(roots), np.bool_)
    has_equal[order[1:][is_equal]] = has_equal[order[:-1][is_equal]] = True
    rows = np.flatnonzero(has_equal)
    _, groups = np.unique(text_digests[rows].view("V16").ravel(), return_inverse=True)
    first_rows = np.full(len(rows), len(roots), np.int32)
    np.minimum.at(first_rows, groups, rows.astype(np.int32))
    roots[rows] = first_rows[groups]
    return roots


def digests(texts: Texts, threads: int = 1) -> Digests:
    """Return the hash of each text, uint64[n, 2]. A run of white space counts as one space, none at either end."""

    def hash_chunk(part: tuple[int, Texts]) -> list[UInt8Array]:
        return [_digests(data, offsets) for _, data, offsets in padded_buffers(part[1])]

    hashes, end = np.empty(16 * len(texts), np.uint8), 0
    for piece in chain.from_iterable(map_in_threads(hash_chunk, chunks(texts), threads)):
        hashes[end : end + len(piece)] = piece
        end += len(piece)
    return hashes.view(np.uint64).reshape(-1, 2)


def normalized(text: str) -> str:
    """Return the text that is hashed. This is the reference in plain Python for the kernel."""
    return " ".join(text.split())


def _digests(data: UInt8Array, offsets: Int64Array) -> UInt8Array:
    """Return the 16 bytes of each hash, one after another."""
    normalized_data = np.empty(offsets[-1] - offsets[0], np.uint8)
    ends = np.empty(len(offsets) - 1, np.int64)
    _normalize_spaces(data, offsets, normalized_data, ends)
    view, stops = normalized_data.data, ends.tolist()
    hashes = (xxhash.xxh3_128_digest(view[start:stop]) for start, stop in zip([0, *stops[:-1]], stops, strict=True))
    return np.frombuffer(b"".join(hashes), np.uint8)


@kernel("boolean(int64)", inline="always")
def _is_space(code: int) -> bool:
    """Whether str.split() separates at this code point."""
    if code < 0x80:
        return code == 0x20 or 0x09 <= code <= 0x0D or 0x1C <= code <= 0x1F
    return _FIRST_SPACE <= code <= _LAST_SPACE or code in _SPACES


@kernel(f"void({BYTES}, {OFFSETS}, uint8[::1], int64[::1])")
def _normalize_spaces(data: UInt8Array, offsets: Int64Array, out: UInt8Array, ends: Int64Array) -> None:
    """Write the texts with normalized white space to `out`, one after another, and the end of each to `ends`."""
    end = 0
    for text in range(len(ends)):
        i, begin, after_space = offsets[text], end, False
        while i < offsets[text + 1]:
            code, size = decode_code_point(data, i)
            if _is_space(int(code)):
                after_space = True
            else:
                # A space is written before the next character, so that there is none at the end of a text.
                if after_space and end > begin:
                    out[end] = 0x20
                    end += 1
                after_space = False
                for k in range(size):
                    out[end + k] = data[i + k]
                end += size
            i += size
        ends[text] = end
