"""Which of several duplicates is kept: one rule for exact and near ones, so that order and shards change nothing."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tasks.curation.arrays import Int64Array
from tasks.curation.text.words import Texts


def ranks(priority: npt.NDArray[Any], lengths: Int64Array, ids: Texts | None) -> Int64Array:
    """The place of each row, from 0: higher priority first, then longer, then smaller id (or, without, earlier row)."""
    last = np.arange(len(lengths)) if ids is None else _places(np.asarray(pc.sort_indices(ids)))
    return _places(np.lexsort((last, -lengths, -np.asarray(priority))))


def _places(order: Int64Array) -> Int64Array:
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places
