"""Exact duplicates: texts whose 128-bit xxh3 hashes are equal once white space is normalized.

Case, width and punctuation still count: copies that differ in those are for `minhash` to find.
"""

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tasks.curation.arrays import Int64Array, UInt8Array, UInt64Array
from tasks.curation.compiled import kernel
from tasks.curation.duplicates import clusters
from tasks.curation.duplicates.ranking import ranks
from tasks.curation.text.words import BYTES, OFFSETS, Texts, byte_lengths, chunks, decode, pieces
from tasks.curation.threads import map_in_threads

Digests = UInt64Array  # [n, 2]

_NARROW = (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)  # white space beyond ASCII, but for:
_FIRST, _LAST = 0x2000, 0x200A


def duplicates(texts: Texts, priority: npt.NDArray[Any], ids: Texts | None = None, threads: int = 1) -> Int64Array:
    """For each text the row that it repeats, -1 where it is kept: the one ranked first by `ranking.ranks` is."""
    _, kinds = np.unique(digests(texts, threads).view("V16").ravel(), return_inverse=True)
    first = np.full(len(texts), len(texts), np.int32)
    np.minimum.at(first, kinds, np.arange(len(texts), dtype=np.int32))
    return clusters.representatives(first[kinds], ranks(priority, byte_lengths(texts), ids))[0]


def digests(texts: Texts, threads: int = 1) -> Digests:
    """The hash of each text, runs of white space taken for one space and none at either end: uint64[n, 2]."""

    def hashed(part: tuple[int, Texts]) -> list[UInt8Array]:
        return [_digests(data, offsets) for _, data, offsets in pieces(part[1])]

    parts = map_in_threads(hashed, chunks(texts), threads)
    return np.concatenate([np.empty(0, np.uint8), *chain.from_iterable(parts)]).view(np.uint64).reshape(-1, 2)


def normalized(text: str) -> str:
    """What is hashed of a text, in plain Python."""
    return " ".join(text.split())


def _digests(data: UInt8Array, offsets: Int64Array) -> UInt8Array:
    out, ends = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(len(offsets) - 1, np.int64)
    _squeeze(data, offsets, out, ends)
    view, places = out.data, ends.tolist()
    hashes = (xxhash.xxh3_128_digest(view[start:end]) for start, end in zip([0, *places[:-1]], places, strict=True))
    return np.frombuffer(b"".join(hashes), np.uint8)


@kernel("boolean(int64)", inline="always")
def _is_space(code: Any) -> Any:
    if code < 0x80:
        return code == 0x20 or 0x09 <= code <= 0x0D or 0x1C <= code <= 0x1F
    return _FIRST <= code <= _LAST or code in _NARROW


@kernel(f"void({BYTES}, {OFFSETS}, uint8[::1], int64[::1])")
def _squeeze(data: Any, offsets: Any, out: Any, ends: Any) -> None:
    end = 0
    for text in range(len(ends)):
        i, begin, gap = offsets[text], end, False
        while i < offsets[text + 1]:
            code, size = decode(data, i)
            if _is_space(code):
                gap = True
            else:
                if gap and end > begin:
                    out[end] = 0x20
                    end += 1
                gap = False
                for k in range(size):
                    out[end + k] = data[i + k]
                end += size
            i += size
        ends[text] = end
