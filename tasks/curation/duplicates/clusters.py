"""Clusters of near-duplicates: equal band keys give candidates, exact Jaccard confirms pairs, union-find connects them.

The result depends on the set of documents alone: neither their order nor their division into shards changes it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import BoolArray, Int32Array, Int64Array, UInt32Array, UInt64Array

BandKeys = UInt64Array  # [bands, n]; one hash for the values of a signature that form a band
ShingleSets = tuple[UInt64Array, Int64Array]  # sorted sets of shingle hashes in one array, and their n + 1 offsets

BATCH_BYTES = 64 << 20  # bytes of text whose shingle sets are in memory at once; the sets take up to four times that

LARGE_BYTES = 4 * BATCH_BYTES  # a component with more text is processed in blocks, which compare some pairs twice

# The constants of the hash in `words.py`: 2^64 / golden ratio, and an odd multiplier that mixes all bits.
_SEED, _STIR, _U1, _U32 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93), np.uint64(1), np.uint64(32)


@dataclass(frozen=True, slots=True)
class Clusters:
    """`roots[i]` is equal for the documents of one cluster. `edges[m, 2]` are the confirmed pairs that connect them."""

    roots: Int32Array
    edges: Int32Array


def band_keys(signatures: UInt32Array, bands: int, rows: int) -> BandKeys:
    """Hash each band of `rows` neighboring values of a signature to one 64-bit key: uint64[bands, n]."""
    keys = np.empty((bands, len(signatures)), np.uint64)
    _hash_bands(signatures, rows, keys)
    return keys


def connect_candidates(keys: BandKeys, has_shingles: BoolArray) -> Int32Array:
    """Return one root per document, equal for documents that equal band keys connect, directly or through others.

    Documents without shingles all have the same meaningless keys. Each of them is its own root.
    """
    n = keys.shape[1]
    # The load of the open hash table stays below 2 / 3, so that chains of occupied slots stay short.
    size = 1 << max(4, int(1.5 * n).bit_length())
    roots, first_rows = np.arange(n, dtype=np.int32), np.empty(size, np.int32)
    for band in keys:
        # One table serves all bands, one after another; equal keys of two bands mean nothing.
        first_rows.fill(-1)
        _unite_equal_keys(np.ascontiguousarray(band), has_shingles, first_rows, roots)
    _flatten(roots)
    return roots


def connect_duplicates(
    keys: BandKeys,
    has_shingles: BoolArray,
    num_bytes: Int64Array,
    sets_of: Callable[[Int32Array], ShingleSets],
    threshold: float,
    max_bucket: int,
) -> Clusters:
    """Connect documents that share a band and whose shingle sets have a Jaccard similarity of at least `threshold`.

    keys: uint64[bands, n]; num_bytes: the size of each text, int64[n]; sets_of: returns the shingle sets of some rows.
    A bucket (documents with the same key in a band) of more than `max_bucket` distinct documents would need a quadratic
    number of comparisons: each is then compared with that many neighbors in the order of a hash of its content.
    """
    # Comparing shingle sets is expensive, and a duplicate of a document can only be in its component of candidates. So
    # documents without candidates (most of them) never need their shingle sets, and components can be processed in
    # batches that fit into memory.
    components = connect_candidates(keys, has_shingles)
    roots, edges = np.arange(len(components), dtype=np.int32), [np.empty((0, 2), np.int32)]
    for rows in batches(components, num_bytes):
        bands = (band[rows] for band in keys)
        if num_bytes[rows].sum() <= LARGE_BYTES:
            batch = connect_members(sets_of(rows), bands, threshold, max_bucket)
        else:
            batch = connect_in_blocks(sets_of, rows, num_bytes[rows], bands, threshold, max_bucket)
        # Roots and edges of a batch are positions in `rows`: translate them to rows of the corpus.
        roots[rows] = rows[batch.roots]
        edges.append(rows[batch.edges])
    return Clusters(roots, np.concatenate(edges))


def connect_members(
    sets: ShingleSets,
    keys: Iterable[UInt64Array],
    threshold: float,
    max_bucket: int,
    members: Int64Array | None = None,
) -> Clusters:
    """Connect documents of equal keys whose shingle sets, `sets`, are similar enough. Roots are positions in `sets`.

    keys: arrays uint64[n], one key per document; or with `members`, int64[k], arrays uint64[k] with the key of each of
    these documents, which may occur more than once.
    """
    hashes, offsets = sets
    num_documents = len(offsets) - 1
    set_hashes = np.empty(num_documents, np.uint64)
    _hash_sets(hashes, offsets, set_hashes)
    # A forest over n documents has fewer than n edges.
    roots, edges = np.arange(num_documents, dtype=np.int32), np.empty((num_documents, 2), np.int32)
    num_edges, is_distinct = _connect_equal_sets(hashes, offsets, set_hashes, roots, edges)
    distinct = np.flatnonzero(is_distinct) if members is None else members[is_distinct[members]]
    for band in keys:
        key = band[is_distinct] if members is None else band[is_distinct[members]]
        # Buckets are runs of equal keys; the order within a bucket must not depend on the order of the input.
        order = np.lexsort((set_hashes[distinct], key))
        num_edges = _connect_buckets(
            hashes, offsets, key[order], distinct[order], threshold, max_bucket, roots, edges, num_edges
        )
    _flatten(roots)
    return Clusters(roots, edges[:num_edges])


def connect_in_blocks(
    sets_of: Callable[[Int32Array], ShingleSets],
    rows: Int32Array,
    num_bytes: Int64Array,
    keys: Iterable[UInt64Array],
    threshold: float,
    max_bucket: int,
    members: Int64Array | None = None,
) -> Clusters:
    """Return the clusters of `connect_members` for documents whose shingle sets do not fit in memory together.

    rows: what `sets_of` receives, [n]; num_bytes: of their texts, int64[n]. About BATCH_BYTES of text are in memory at
    a time, and the neighbors with which the first document of a block is compared.
    """
    roots, set_hashes = np.arange(len(rows), dtype=np.int32), np.empty(len(rows), np.uint64)
    for begin, end in _blocks(num_bytes):
        _hash_sets(*sets_of(rows[begin:end]), set_hashes[begin:end])
    order = np.argsort(set_hashes, kind="stable")
    edges = [_connect_sorted(sets_of, rows, num_bytes, (set_hashes[order], order), 1.0, 1, roots)]
    _flatten(roots)
    is_distinct = roots == np.arange(len(roots))
    distinct = np.flatnonzero(is_distinct) if members is None else members[is_distinct[members]]
    for band in keys:
        key = band[is_distinct] if members is None else band[is_distinct[members]]
        order = np.lexsort((set_hashes[distinct], key))
        buckets = key[order], distinct[order]
        edges.append(_connect_sorted(sets_of, rows, num_bytes, buckets, threshold, max_bucket, roots))
    _flatten(roots)
    return Clusters(roots, np.concatenate(edges))


def _connect_sorted(
    sets_of: Callable[[Int32Array], ShingleSets],
    rows: Int32Array,
    num_bytes: Int64Array,
    buckets: tuple[UInt64Array, Int64Array],
    threshold: float,
    window: int,
    roots: Int32Array,
) -> Int32Array:
    """Unite similar documents of equal keys in `roots`; return the edges. buckets: sorted keys, and their documents."""
    # A document that is alone in its bucket needs no shingle set.
    is_equal = np.concatenate([[False], np.diff(buckets[0]) == 0, [False]])
    keys, documents = (values[is_equal[1:] | is_equal[:-1]] for values in buckets)
    edges = [np.empty((0, 2), np.int32)]
    for begin, end in _blocks(num_bytes[documents]):
        first = max(begin - window, int(np.searchsorted(keys, keys[begin])))
        block, places = np.unique(documents[first:end], return_inverse=True)
        hashes, offsets = sets_of(rows[block])
        # What earlier blocks have united stays united: the root in the block is its first document of the same cluster.
        _, firsts, clusters = np.unique(_roots_of(roots, block), return_index=True, return_inverse=True)
        block_roots, block_edges = firsts[clusters].astype(np.int32), np.empty((len(block), 2), np.int32)
        num_edges = _connect_buckets(
            hashes, offsets, keys[first:end], places, threshold, window, block_roots, block_edges, 0
        )
        edges.append(block[block_edges[:num_edges]].astype(np.int32))
        _unite_edges(edges[-1], roots)
    return np.concatenate(edges)


def _roots_of(roots: Int32Array, documents: Int64Array) -> Int32Array:
    _flatten(roots)
    return roots[documents]


def _blocks(num_bytes: Int64Array) -> Iterator[tuple[int, int]]:
    """Yield (begin, end) of runs of documents with about BATCH_BYTES of text."""
    if not len(num_bytes):
        return
    numbers = np.cumsum(num_bytes) // BATCH_BYTES
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist()]
    yield from zip(starts, [*starts[1:], len(num_bytes)], strict=True)


def representatives(roots: Int32Array, ranks: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the row of the best rank in each document's cluster (-1 where it is its own), and its cluster's size.

    roots: int32[n], equal within a cluster; ranks: int64[n], a permutation of 0 to n - 1, the best is the lowest.
    """
    # By root: the lowest rank in its cluster. np.minimum.at also handles roots that occur more than once.
    best_ranks = np.full(len(roots), len(roots), np.int64)
    np.minimum.at(best_ranks, roots, ranks)
    row_of_rank = np.empty(len(roots), np.int64)
    row_of_rank[ranks] = np.arange(len(roots))
    best_rows = row_of_rank[best_ranks[roots]]
    sizes = np.bincount(roots, minlength=len(roots))[roots]
    return np.where(best_rows == np.arange(len(roots)), -1, best_rows), sizes


def batches(components: Int32Array, num_bytes: Int64Array) -> Iterator[Int32Array]:
    """Yield the rows that have candidates, in batches of about BATCH_BYTES of text that divide no component.

    components: int32[n], a number below n for each document, equal within a component; num_bytes: of their texts.
    """
    sizes = np.bincount(components, minlength=len(components))
    rows = np.flatnonzero(sizes[components] > 1).astype(np.int32)
    rows = rows[np.argsort(components[rows], kind="stable")]
    if not len(rows):
        return
    # Sorted by component: a component starts where the root differs from that of the row before.
    starts = np.flatnonzero(np.diff(components[rows], prepend=-1))
    ends, total_bytes = np.append(starts[1:], len(rows)), np.cumsum(num_bytes[rows])
    begin = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        # A single component may exceed the limit: dividing it would lose its pairs.
        if start > begin and total_bytes[end - 1] - total_bytes[begin] > BATCH_BYTES:
            yield rows[begin:start]
            begin = start
    yield rows[begin:]


def _connect_equal_sets(
    hashes: UInt64Array, offsets: Int64Array, set_hashes: UInt64Array, roots: Int32Array, edges: Int32Array
) -> tuple[int, BoolArray]:
    """Connect documents with equal shingle sets. Return the number of edges, and whether each is the first of its set.

    Without this step, thousands of identical pages would fill the window of `max_bucket` neighbors in each bucket.
    """
    # With a threshold of 1 and a window of 1, each set is compared with the one before it that has the same hash.
    order = np.argsort(set_hashes, kind="stable")
    num_edges = _connect_buckets(hashes, offsets, set_hashes[order], order, 1.0, 1, roots, edges, 0)
    _flatten(roots)
    return num_edges, roots == np.arange(len(roots))


@kernel("int32(int32[::1], int32)")
def _find_root(roots: Int32Array, i: int) -> int:
    """Follow the parents of i to the root. Path halving: each visited node then points to its grandparent."""
    while roots[i] != i:
        roots[i] = roots[roots[i]]
        i = roots[i]
    return i


@kernel("boolean(int32[::1], int32, int32)")
def _unite(roots: Int32Array, i: int, j: int) -> bool:
    """Unite two components; whether they were separate. The smaller root wins, so the order of unions is irrelevant."""
    i, j = _find_root(roots, i), _find_root(roots, j)
    roots[max(i, j)] = min(i, j)
    return i != j


@kernel("void(int32[:, ::1], int32[::1])")
def _unite_edges(edges: Int32Array, roots: Int32Array) -> None:
    """Unite the two documents of each edge."""
    for i in range(len(edges)):
        _unite(roots, edges[i, 0], edges[i, 1])


@kernel("void(int32[::1])")
def _flatten(roots: Int32Array) -> None:
    """Let every node point to its root directly."""
    for i in range(len(roots)):
        roots[i] = _find_root(roots, i)


@kernel("void(uint32[:, ::1], int64, uint64[:, ::1])")
def _hash_bands(signatures: UInt32Array, rows: int, keys: UInt64Array) -> None:
    """Write the hash of each band of each signature to keys[band, i]; the band's number is part of the hash."""
    for i in range(len(signatures)):
        for band in range(len(keys)):
            h = _SEED + np.uint64(band)
            for value in signatures[i, band * rows : (band + 1) * rows]:
                h = (h ^ np.uint64(value)) * _STIR
                h ^= h >> _U32
            keys[band, i] = h


@kernel("void(uint64[::1], boolean[::1], int32[::1], int32[::1])")
def _unite_equal_keys(keys: UInt64Array, has_shingles: BoolArray, first_rows: Int32Array, roots: Int32Array) -> None:
    """Unite the documents of each key by an open hash table with linear probing.

    first_rows[slot]: the first document with the slot's key, -1 where the slot is free.
    """
    mask = np.uint64(len(first_rows) - 1)
    for i in range(len(keys)):
        if not has_shingles[i]:
            continue
        slot = keys[i] & mask
        while first_rows[slot] >= 0 and keys[first_rows[slot]] != keys[i]:
            slot = (slot + _U1) & mask
        # The key is new in this band, or the document joins the first one that had the key.
        if first_rows[slot] < 0:
            first_rows[slot] = i
        else:
            _unite(roots, i, first_rows[slot])


@kernel("void(uint64[::1], int64[::1], uint64[::1])")
def _hash_sets(hashes: UInt64Array, offsets: Int64Array, set_hashes: UInt64Array) -> None:
    """Write one hash for each sorted set."""
    for i in range(len(set_hashes)):
        h = _SEED
        for value in hashes[offsets[i] : offsets[i + 1]]:
            h = (h ^ value) * _STIR
            h ^= h >> _U32
        set_hashes[i] = h


@kernel("float64(uint64[::1], uint64[::1])")
def jaccard(a: UInt64Array, b: UInt64Array) -> float:
    """Return the Jaccard similarity |a and b| / |a or b| of two sorted sets; 0 for two empty sets.

    The sets are merged: in each step, the indices of all sets that have the smaller value move on.
    """
    i = j = common = 0
    while i < len(a) and j < len(b):
        value_a, value_b = a[i], b[j]
        common += value_a == value_b
        i += value_a <= value_b
        j += value_b <= value_a
    union = len(a) + len(b) - common
    return common / union if union else 0.0


@kernel("int64(uint64[::1], int64[::1], uint64[::1], int64[::1], float64, int64, int32[::1], int32[:, ::1], int64)")
def _connect_buckets(
    hashes: UInt64Array,
    offsets: Int64Array,
    keys: UInt64Array,
    order: Int64Array,
    threshold: float,
    window: int,
    roots: Int32Array,
    edges: Int32Array,
    num_edges: int,
) -> int:
    """Unite documents of equal key that are similar enough; return the new number of edges.

    keys: sorted; order: the document of each key. Each is compared with at most `window` documents before it that have
    its key.
    """
    bucket_start = 0
    for position in range(1, len(order)):
        i = order[position]
        # A new key starts a new bucket.
        if keys[bucket_start] != keys[position]:
            bucket_start = position
        for earlier in range(max(bucket_start, position - window), position):
            j = order[earlier]
            size_i, size_j = offsets[i + 1] - offsets[i], offsets[j + 1] - offsets[j]
            # Jaccard is at most the ratio of the sizes. The 1 allows for rounding of the product.
            if min(size_i, size_j) < threshold * max(size_i, size_j) - 1 or _find_root(roots, i) == _find_root(
                roots, j
            ):
                continue
            if jaccard(hashes[offsets[i] : offsets[i + 1]], hashes[offsets[j] : offsets[j + 1]]) >= threshold:
                # An edge is written for a union only, so that the edges form a forest: one fewer than documents per
                # cluster.
                _unite(roots, i, j)
                edges[num_edges, 0], edges[num_edges, 1] = i, j
                num_edges += 1
    return num_edges
