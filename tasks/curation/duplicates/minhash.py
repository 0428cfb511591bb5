"""Near-duplicates by MinHash and banding (Broder 1997; Leskovec, Rajaraman and Ullman, chapter 3), each pair verified.

Signatures equal those of datasketch's scheme `affine32` for the shingles that `words.py` and `shingles.py` define. Two
documents that share a band are candidates; candidates with an exact Jaccard similarity of at least `threshold` are
duplicates; the documents that such pairs connect form a cluster.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, model_validator

from tasks.curation.arrays import BoolArray, Int32Array, Int64Array, UInt32Array
from tasks.curation.duplicates import clusters
from tasks.curation.duplicates.banding import LARGEST_SIGNATURE, MIN_RECALL, NUM_PERMUTATIONS, derive_banding, recall
from tasks.curation.duplicates.ranking import Ids, best_rows
from tasks.curation.text import folding, shingles
from tasks.curation.text.words import Texts, byte_lengths, chunks, take
from tasks.curation.threads import ProgressCallback, ignore_progress, map_in_threads


class Params(BaseModel, frozen=True, extra="forbid"):
    """Settings of near-duplicate detection. The first `bands` x `rows` values of each signature are compared."""

    threshold: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Smallest Jaccard similarity of the shingle sets of two documents that count as duplicates.",
    )
    shingle_size: int = Field(
        5, ge=1, le=50, description="Number of words in a shingle; of characters in scripts without spaces."
    )
    num_permutations: int | None = Field(
        None,
        ge=1,
        le=LARGEST_SIGNATURE,
        description="Number of values in a MinHash signature. The time to sign is proportional to it. Null: 112, or as "
        "many as bands x rows need (up to 256 for thresholds below 0.57).",
    )
    bands: int | None = Field(
        None,
        ge=1,
        description="Number of bands; documents that are equal in one band are compared. Null: bands and rows are "
        "derived from the threshold, so that at least 95 % of the pairs at the threshold are compared.",
    )
    rows: int | None = Field(None, ge=1, description="Number of signature values in a band. Null: see bands.")
    seed: int = Field(1, ge=0, lt=1 << 32, description="Seed of the random permutations.")
    max_bucket: int = Field(
        1000,
        ge=1,
        description="Number of neighbors that each document is compared with when more distinct documents than this "
        "are equal in a band.",
    )

    @model_validator(mode="after")
    def _bands_and_rows_fit(self) -> Self:
        if (self.bands is None) != (self.rows is None):
            raise ValueError("expected both bands and rows, or neither of them")
        bands, rows = self.banding()
        if self.num_permutations and bands * rows > self.num_permutations:
            raise ValueError(
                f"expected bands x rows of at most num_permutations = {self.num_permutations}, got "
                f"{bands} x {rows} = {bands * rows}, which is more than num_permutations"
            )
        return self

    def banding(self) -> tuple[int, int]:
        """Return (bands, rows): the given ones, or those derived from the threshold."""
        if self.bands and self.rows:
            return self.bands, self.rows
        return derive_banding(self.threshold, self.num_permutations)

    def signature_size(self) -> int:
        """Return the number of values in a signature."""
        bands, rows = self.banding()
        return self.num_permutations or max(NUM_PERMUTATIONS, bands * rows)

    def low_recall_warning(self) -> str | None:
        """Return a warning if fewer than 95 % of the pairs at the threshold are compared, None otherwise."""
        bands, rows = self.banding()
        share = recall(self.threshold, bands, rows)
        if share >= MIN_RECALL:
            return None
        better_bands, better_rows = derive_banding(self.threshold)
        return (
            f"curation.minhash: {bands} bands of {rows} rows find only {share:.1%} of the pairs with a similarity of "
            f"{self.threshold:g} (the threshold). Remove bands, rows and num_permutations from params.yaml: "
            f"{better_bands} bands of {better_rows} rows, which follow from the threshold, find "
            f"{recall(self.threshold, better_bands, better_rows):.1%}."
        )

    def contract(self) -> dict[str, Any]:
        """Return all settings that band keys depend on. Keys of two different contracts must not be compared."""
        bands, rows = self.banding()
        signature = {"scheme": "affine32", "seed": self.seed, "num_permutations": self.signature_size()}
        hashing = {"shingle_size": self.shingle_size, "shingle_hash": "athanor-1", "folding": folding.digest()}
        # `threshold` and `max_bucket` are missing: they decide how candidates are verified, not what the keys are. A
        # threshold can change bands and rows, however.
        return {**signature, **hashing, "bands": bands, "rows": rows}


@dataclass(frozen=True, slots=True)
class BandedTexts:
    """keys: uint64[bands, n]; has_shingles: bool[n], false for texts with fewer tokens than a shingle."""

    keys: clusters.BandKeys
    has_shingles: BoolArray


def duplicates(
    texts: Texts,
    params: Params,
    priority: npt.NDArray[Any],
    ids: Ids | None = None,
    threads: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> tuple[Int64Array, Int64Array]:
    """Return for each text the row that represents it (-1 where the text is kept), and the size of its cluster.

    The text with the highest `priority` represents its cluster; among equals the longest; among these the one with the
    smallest id, or without ids the first. With ids, the result is the same for any order of the rows. `on_progress`
    receives the bytes of text that have been signed.
    """
    banded, lengths = compute_band_keys(texts, params, threads, on_progress), byte_lengths(texts)
    connected = clusters.connect_duplicates(
        banded.keys, banded.has_shingles, lengths, sets_reader(texts, params), params.threshold, params.max_bucket
    )
    return best_rows(connected.roots, priority, lengths, ids)


def compute_band_keys(
    texts: Texts, params: Params, threads: int = 1, on_progress: ProgressCallback = ignore_progress
) -> BandedTexts:
    """Compute the band keys of texts. Signatures exist for one chunk of texts at a time, to save memory."""
    bands, rows = params.banding()
    # Values beyond the last band are never compared: they are not computed.
    coefficients = permutations(params.signature_size(), params.seed)[:, : bands * rows]
    keys, has_shingles = np.empty((bands, len(texts)), np.uint64), np.empty(len(texts), np.bool_)

    def fill(part: tuple[int, Texts]) -> int:
        start, chunk = part
        chunk_signatures, counts = shingles.compute_signatures(chunk, params.shingle_size, coefficients)
        keys[:, start : start + len(counts)] = clusters.band_keys(chunk_signatures, bands, rows)
        # Signatures of texts without shingles are all equal, but say nothing about the texts.
        has_shingles[start : start + len(counts)] = counts > 0
        return int(byte_lengths(chunk).sum())

    folding.fold_table()  # built here once: each thread that finds it missing would build its own
    for size in map_in_threads(fill, chunks(texts), threads):
        on_progress(size)
    return BandedTexts(keys, has_shingles)


def signatures(texts: Texts, params: Params) -> UInt32Array:
    """Return datasketch's signatures, uint32[n, num_permutations]; all bits are set for a text without shingles."""
    coefficients = permutations(params.signature_size(), params.seed)
    return shingles.compute_signatures(texts, params.shingle_size, coefficients)[0]


def permutations(number: int, seed: int) -> UInt32Array:
    """Return the a (odd) and b of datasketch's affine32 permutations a * h + b modulo 2^32: uint32[2, number].

    An odd factor is invertible modulo 2^32, so that each function is a permutation of the hashes.
    """
    # The order of these draws is datasketch's: all a first, then all b. So the b depend on `number`.
    generator = np.random.RandomState(seed)
    a = generator.randint(0, 1 << 31, number, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return np.array([a, generator.randint(0, 1 << 32, number, dtype=np.uint32)])


def sets_reader(texts: Texts, params: Params) -> Callable[[Int32Array], clusters.ShingleSets]:
    """Return a function from rows to the shingle sets of their texts."""
    return functools.partial(shingle_sets, texts, params.shingle_size)


def shingle_sets(texts: Texts, size: int, rows: Int32Array) -> clusters.ShingleSets:
    """Return the shingle sets of some rows."""
    return shingles.shingle_sets(take(texts, rows), size)
