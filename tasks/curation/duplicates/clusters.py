"""Clusters of near-duplicates: documents equal in a band are candidates, exact Jaccard decides, union-find connects.

What comes out depends on the set of documents alone: not on their order, nor on how they are cut into shards.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.curation.arrays import BoolArray, Int32Array, Int64Array, UInt32Array, UInt64Array
from tasks.curation.compiled import kernel

Keys = UInt64Array  # [bands, n]; one hash for the rows of a signature that make a band
Sets = tuple[UInt64Array, Int64Array]  # sorted sets in one array, and their n + 1 offsets

BATCH_WEIGHT = 64 << 20  # bytes of text whose shingles are compared at once; they take up to four times that

_SEED, _STIR, _U1, _U32 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(1), np.uint64(32)


@dataclass(frozen=True, slots=True)
class Clusters:
    """`roots[i]` is equal for the documents of one cluster; `edges[m, 2]`, the verified pairs that connect them."""

    roots: Int32Array
    edges: Int32Array


def band_keys(signatures: UInt32Array, bands: int, rows: int) -> Keys:
    """One 64-bit key for each band of `rows` neighboring values: uint64[bands, n]."""
    keys = np.empty((bands, len(signatures)), np.uint64)
    _band_keys(signatures, rows, keys)
    return keys


def candidates(keys: Keys, signed: BoolArray) -> Int32Array:
    """A root for each document: equal for those connected by equal bands. Those not `signed` are left alone."""
    n = keys.shape[1]
    size = 1 << max(4, int(1.5 * n).bit_length())
    roots, heads, known = np.arange(n, dtype=np.int32), np.empty(size, np.int32), np.empty(size, np.uint64)
    for band in keys:
        heads.fill(-1)
        _connect(np.ascontiguousarray(band), signed, heads, known, roots)
    _flatten(roots)
    return roots


def verify(
    keys: Keys,
    signed: BoolArray,
    weights: Int64Array,
    sets_of: Callable[[Int32Array], Sets],
    threshold: float,
    max_bucket: int,
) -> Clusters:
    """Connect documents that share a band and whose shingle sets have a Jaccard similarity of `threshold` or more.

    `weights` are bytes of text, `sets_of(rows)` the shingle sets of some documents. In a bucket of more than
    `max_bucket` distinct documents, each is compared with that many neighbors in the order of their content.
    """
    coarse = candidates(keys, signed)
    roots, edges = np.arange(len(coarse), dtype=np.int32), [np.empty((0, 2), np.int32)]
    for rows in _batches(coarse, weights):
        hashes, offsets = sets_of(rows)
        content = np.empty(len(rows), np.uint64)
        _content(hashes, offsets, content)
        local, found = np.arange(len(rows), dtype=np.int32), np.empty((len(rows), 2), np.int32)
        count, distinct = _merge_equal(hashes, offsets, content, local, found)
        for band in keys:
            key = band[rows[distinct]]
            order = distinct[np.lexsort((content[distinct], key))]
            count = _link(hashes, offsets, band[rows], order, threshold, max_bucket, local, found, count)
        _flatten(local)
        roots[rows] = rows[local]
        edges.append(rows[found[:count]])
    return Clusters(roots, np.concatenate(edges))


def representatives(roots: Int32Array, rank: Int64Array) -> tuple[Int64Array, Int64Array]:
    """For each document the row of its cluster's best rank (-1 where that is itself), and the size of its cluster."""
    best = np.full(len(roots), len(roots), np.int64)
    np.minimum.at(best, roots, rank)
    by_rank = np.empty(len(roots), np.int64)
    by_rank[rank] = np.arange(len(roots))
    keeper = by_rank[best[roots]]
    sizes = np.bincount(roots, minlength=len(roots))[roots]
    return np.where(keeper == np.arange(len(roots)), -1, keeper), sizes


def _batches(coarse: Int32Array, weights: Int64Array) -> Iterator[Int32Array]:
    """Documents that have candidates, whole components together, as many as BATCH_WEIGHT allows."""
    sizes = np.bincount(coarse, minlength=len(coarse))
    rows = np.flatnonzero(sizes[coarse] > 1).astype(np.int32)
    rows = rows[np.argsort(coarse[rows], kind="stable")]
    if not len(rows):
        return
    starts = np.flatnonzero(np.diff(coarse[rows], prepend=-1))
    ends, total = np.append(starts[1:], len(rows)), np.cumsum(weights[rows])
    begin = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if start > begin and total[end - 1] - total[begin] > BATCH_WEIGHT:
            yield rows[begin:start]
            begin = start
    yield rows[begin:]


def _merge_equal(
    hashes: Any, offsets: Any, content: Any, roots: Int32Array, edges: Int32Array
) -> tuple[int, Int64Array]:
    """Connect equal sets; the number of edges, and one member of each kind."""
    order = np.argsort(content, kind="stable")
    count: int = _link(hashes, offsets, content, order, 1.0, 1, roots, edges, 0)
    _flatten(roots)
    return count, np.flatnonzero(roots == np.arange(len(roots)))


@kernel("int32(int32[::1], int32)")
def _find(roots: Any, i: Any) -> Any:
    while roots[i] != i:
        roots[i] = roots[roots[i]]
        i = roots[i]
    return i


@kernel("boolean(int32[::1], int32, int32)")
def _unite(roots: Any, i: Any, j: Any) -> Any:
    i, j = _find(roots, i), _find(roots, j)
    roots[max(i, j)] = min(i, j)
    return i != j


@kernel("void(int32[::1])")
def _flatten(roots: Any) -> None:
    for i in range(len(roots)):
        roots[i] = _find(roots, i)


@kernel("void(uint32[:, ::1], int64, uint64[:, ::1])")
def _band_keys(signatures: Any, rows: int, out: Any) -> None:
    for i in range(len(signatures)):
        for band in range(len(out)):
            h = _SEED + np.uint64(band)
            for value in signatures[i, band * rows : (band + 1) * rows]:
                h = (h ^ np.uint64(value)) * _STIR
                h ^= h >> _U32
            out[band, i] = h


@kernel("void(uint64[::1], boolean[::1], int32[::1], uint64[::1], int32[::1])")
def _connect(keys: Any, signed: Any, heads: Any, known: Any, roots: Any) -> None:
    """Unite documents of equal key by an open hash table: `heads`, the first document of a key, `known`, its key."""
    mask = np.uint64(len(heads) - 1)
    for i in range(len(keys)):
        if not signed[i]:
            continue
        slot = keys[i] & mask
        while heads[slot] >= 0 and known[slot] != keys[i]:
            slot = (slot + _U1) & mask
        if heads[slot] < 0:
            heads[slot], known[slot] = i, keys[i]
        else:
            _unite(roots, i, heads[slot])


@kernel("void(uint64[::1], int64[::1], uint64[::1])")
def _content(hashes: Any, offsets: Any, out: Any) -> None:
    for i in range(len(out)):
        h = _SEED
        for value in hashes[offsets[i] : offsets[i + 1]]:
            h = (h ^ value) * _STIR
            h ^= h >> _U32
        out[i] = h


@kernel("float64(uint64[::1], uint64[::1])")
def jaccard(a: Any, b: Any) -> Any:
    """The share that two sorted sets have in common; 0 for two empty ones."""
    i = j = common = 0
    while i < len(a) and j < len(b):
        left, right = a[i], b[j]
        common += left == right
        i += left <= right
        j += right <= left
    united = len(a) + len(b) - common
    return common / united if united else 0.0


@kernel("int64(uint64[::1], int64[::1], uint64[::1], int64[::1], float64, int64, int32[::1], int32[:, ::1], int64)")
def _link(
    hashes: Any, offsets: Any, keys: Any, order: Any, threshold: float, window: int, roots: Any, edges: Any, count: int
) -> Any:
    """Unite neighbors in `order` of equal key and sufficient Jaccard; the new number of edges."""
    first = 0
    for at in range(1, len(order)):
        i = order[at]
        if keys[order[first]] != keys[i]:
            first = at
        for before in range(max(first, at - window), at):
            j = order[before]
            small, large = offsets[i + 1] - offsets[i], offsets[j + 1] - offsets[j]
            if min(small, large) < threshold * max(small, large) - 1 or _find(roots, i) == _find(roots, j):
                continue
            if jaccard(hashes[offsets[i] : offsets[i + 1]], hashes[offsets[j] : offsets[j + 1]]) >= threshold:
                _unite(roots, i, j)
                edges[count, 0], edges[count, 1] = i, j
                count += 1
    return count
