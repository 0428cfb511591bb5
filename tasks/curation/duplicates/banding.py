"""Bands and rows for MinHash: how many pairs of similar documents they find, and which ones fit a threshold.

A pair with Jaccard similarity s has equal values in a band of r rows with the probability s^r. It becomes a candidate,
if at least one of b bands is equal, with the probability 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, chapter 3).
More rows make this curve steeper, so that fewer dissimilar pairs are compared, but need more bands for the same recall.
"""

import functools
import math
from typing import overload

from tasks.curation.arrays import Float64Array

MIN_RECALL = 0.95  # of pairs exactly at the threshold; more similar pairs are found more often
NUM_PERMUTATIONS = 112  # the smallest signature; its cost (time to sign, bytes per band) is the unit below

# Below 4 rows, documents that share little more than boilerplate are compared: with similarity 0.1, a pair becomes a
# candidate in 43 % of cases with 56 x 2, in 3.6 % with 37 x 3, but in 0.6 % with 60 x 4. Long chains of such pairs must
# be in memory at once. Signatures grow to avoid this, to at most 2.3 times the smallest one.
PREFERRED_ROWS = 4
MAX_PERMUTATIONS = 256
LARGEST_SIGNATURE = 4096


@overload
def recall(similarity: float, bands: int, rows: int) -> float: ...
@overload
def recall(similarity: Float64Array, bands: int, rows: int) -> Float64Array: ...
def recall(similarity: float | Float64Array, bands: int, rows: int) -> float | Float64Array:
    """Return the probability that a pair with this Jaccard similarity is equal in at least one band; also of arrays."""
    return 1 - (1 - similarity**rows) ** bands


@functools.cache
def derive_banding(threshold: float, num_permutations: int | None = None) -> tuple[int, int]:
    """Return the (bands, rows) with the most rows whose recall at the threshold is at least MIN_RECALL.

    With `num_permutations`, bands x rows is at most that number; if no banding has the recall, the one with the highest
    recall, of one row, is returned. Without it, bands x rows is at most 112, or at most 256 if 112 values allow fewer
    than 4 rows (thresholds below 0.57) and more values allow more. Thresholds below 0.012 need still more values.
    """
    limit = num_permutations or NUM_PERMUTATIONS
    max_rows = next((rows for rows in range(limit, 0, -1) if recall(threshold, limit // rows, rows) >= MIN_RECALL), 0)
    if num_permutations or max_rows >= PREFERRED_ROWS:
        rows = max(max_rows, 1)
        return limit // rows, rows
    for rows in range(PREFERRED_ROWS, max_rows, -1):
        bands = math.ceil(math.log(1 - MIN_RECALL) / math.log1p(-(threshold**rows)))
        if bands * rows <= MAX_PERMUTATIONS or rows == 1:
            return min(bands, LARGEST_SIGNATURE), rows
    return limit // max_rows, max_rows
