"""The rule that decides which of several duplicates is kept, for exact and near duplicates and repeated passages.

It depends on the documents alone, so that neither their order nor their division into shards changes the result.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tasks.curation.arrays import Int64Array
from tasks.curation.text.words import Texts


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
