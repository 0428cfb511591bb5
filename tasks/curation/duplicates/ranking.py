"""The rule that decides which of several duplicates is kept, for exact and near duplicates and repeated passages.

It depends on the documents alone, so that neither their order nor their division into shards changes the result.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.arrays import Int32Array, Int64Array
from tasks.curation.duplicates import clusters
from tasks.curation.text.words import Texts

Ids = Texts | Callable[[Int64Array], Texts]
"""The ids of all documents, or a function from positions to the ids there, so that only those of copies are read."""


def best_rows(
    roots: Int32Array, priority: npt.NDArray[Any], lengths: Int64Array, ids: Ids | None
) -> tuple[Int64Array, Int64Array]:
    """Return the best row of each document's cluster (-1 where it is its own), and its cluster's size.

    roots: int32[n], equal within a cluster. Only the documents that have copies are ranked, which are few.
    """
    sizes = np.bincount(roots, minlength=len(roots)).astype(np.int32)[roots]
    rows, best = np.flatnonzero(sizes > 1), np.full(len(roots), -1, np.int64)
    copy_ids = ids if ids is None or not len(rows) else ids(rows) if callable(ids) else ids.take(pa.array(rows))
    if len(rows):
        copy_roots = np.unique(roots[rows], return_inverse=True)[1].astype(np.int32)
        places, _ = clusters.representatives(copy_roots, ranks(priority[rows], lengths[rows], copy_ids))
        best[rows] = np.where(places < 0, -1, rows[places])
    return best, sizes.astype(np.int64)


def ranks(priority: npt.NDArray[Any], lengths: Int64Array, ids: Texts | None) -> Int64Array:
    """Return the rank of each row, int64[n], from 0 for the best.

    Rows are ordered by priority (highest first), then length (longest first), then id (smallest first; without ids, the
    row's own position).
    """
    id_ranks = np.arange(len(lengths)) if ids is None else _inverse(np.asarray(pc.sort_indices(ids)))
    return _inverse(np.lexsort((id_ranks, -lengths, -np.asarray(priority))))  # the last key is the first criterion


def _inverse(order: Int64Array) -> Int64Array:
    """Return the inverse permutation: from the row at each rank to the rank of each row."""
    rank_of_row = np.empty(len(order), np.int64)
    rank_of_row[order] = np.arange(len(order))
    return rank_of_row
