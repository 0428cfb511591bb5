"""Near-duplicates by MinHash and banding (Broder 1997; Leskovec, Rajaraman and Ullman, chapter 3), each verified.

Signatures are datasketch's `affine32`, of the shingles that `words` and `shingles` define; candidates share a band,
duplicates have an exact Jaccard similarity of at least `threshold`, clusters are what verified pairs connect.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, Field, model_validator

from tasks.curation.arrays import BoolArray, Int32Array, Int64Array, UInt32Array
from tasks.curation.duplicates import clusters
from tasks.curation.duplicates.ranking import ranks
from tasks.curation.text import folding, shingles
from tasks.curation.text.words import Texts, byte_lengths, chunks
from tasks.curation.threads import ProgressCallback, ignore_progress, map_in_threads

_PRECISION = 0.001


class Params(BaseModel, frozen=True, extra="forbid"):
    """`bands` x `rows` values of a signature are compared; where both are null, datasketch's optimum of `threshold`."""

    threshold: float = Field(0.8, gt=0, le=1)
    shingle_size: int = Field(5, ge=1, le=50)  # words, or characters where a script has no spaces
    num_permutations: int = Field(112, ge=1, le=4096)
    bands: int | None = Field(14, ge=1)
    rows: int | None = Field(8, ge=1)
    seed: int = Field(1, ge=0, lt=1 << 32)
    max_bucket: int = Field(1000, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.bands is None) != (self.rows is None):
            raise ValueError("give both bands and rows, or neither")
        if self.bands and self.rows and self.bands * self.rows > self.num_permutations:
            raise ValueError(f"bands x rows = {self.bands * self.rows} is more than num_permutations")
        return self

    def banding(self) -> tuple[int, int]:
        """(bands, rows), as given or as best for the threshold."""
        return (self.bands, self.rows) if self.bands and self.rows else optimum(self.threshold, self.num_permutations)

    def contract(self) -> dict[str, Any]:
        """All that band keys depend on: those of two different contracts must not be compared."""
        bands, rows = self.banding()
        signature = {"scheme": "affine32", "seed": self.seed, "num_permutations": self.num_permutations}
        rule = {"shingle_size": self.shingle_size, "shingle_hash": "athanor-1", "folding": folding.digest()}
        return {**signature, **rule, "bands": bands, "rows": rows}


@dataclass(frozen=True, slots=True)
class Banded:
    """What is kept of texts to find their candidates: keys uint64[bands, n], and which texts have shingles at all."""

    keys: clusters.Keys
    signed: BoolArray


def duplicates(
    texts: Texts,
    params: Params,
    priority: npt.NDArray[Any],
    ids: Texts | None = None,
    threads: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> tuple[Int64Array, Int64Array]:
    """For each text the row that stands for it (-1 where it is kept), and the size of its cluster.

    The one of the highest `priority` stands for its cluster; then the longest; then the smallest of `ids`, or, without
    ids, the first. With ids the result is the same for any order of the rows. Tells bytes that are signed.
    """
    banded, lengths = band(texts, params, threads, on_progress), byte_lengths(texts)
    sets = sets_from(texts, params)
    found = clusters.verify(banded.keys, banded.signed, lengths, sets, params.threshold, params.max_bucket)
    return clusters.representatives(found.roots, ranks(priority, lengths, ids))


def band(texts: Texts, params: Params, threads: int = 1, on_progress: ProgressCallback = ignore_progress) -> Banded:
    """The band keys of texts; signatures are made for some texts at a time and forgotten."""
    bands, rows = params.banding()
    numbers = permutations(params.num_permutations, params.seed)[:, : bands * rows]
    keys, signed = np.empty((bands, len(texts)), np.uint64), np.empty(len(texts), np.bool_)

    def fill(part: tuple[int, Texts]) -> int:
        start, some = part
        signatures, counts = shingles.sign(some, params.shingle_size, numbers)
        keys[:, start : start + len(counts)] = clusters.band_keys(signatures, bands, rows)
        signed[start : start + len(counts)] = counts > 0
        return int(byte_lengths(some).sum())

    folding.table()
    for size in map_in_threads(fill, chunks(texts), threads):
        on_progress(size)
    return Banded(keys, signed)


def signatures(texts: Texts, params: Params) -> shingles.Signatures:
    """uint32[n, num_permutations], as datasketch's; all ones for a text without shingles."""
    return shingles.sign(texts, params.shingle_size, permutations(params.num_permutations, params.seed))[0]


def permutations(number: int, seed: int) -> UInt32Array:
    """uint32[2, number]: the a (odd) and b of datasketch's affine32 permutations a * h + b modulo 2^32."""
    generator = np.random.RandomState(seed)
    a = generator.randint(0, 1 << 31, number, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return np.array([a, generator.randint(0, 1 << 32, number, dtype=np.uint32)])


@functools.cache
def optimum(threshold: float, number: int) -> tuple[int, int]:
    """(bands, rows) of `MinHashLSH(threshold, num_perm=number)`: least area of false candidates and missed pairs."""
    shares = [(bands, rows) for bands in range(1, number + 1) for rows in range(1, number // bands + 1)]
    below = np.arange(0, threshold, _PRECISION) + _PRECISION / 2
    above = np.arange(threshold, 1, _PRECISION) + _PRECISION / 2

    def error(share: tuple[int, int]) -> float:
        bands, rows = share
        missed = (1 - above**rows) ** bands
        return float(0.5 * (1 - (1 - below**rows) ** bands).sum() + 0.5 * missed.sum())

    return min(shares, key=error)


def sets_from(texts: Texts, params: Params) -> Callable[[Int32Array], clusters.Sets]:
    """A function from rows to their shingle sets."""
    return functools.partial(sets_of, texts, params.shingle_size)


def sets_of(texts: Texts, size: int, rows: Int32Array) -> clusters.Sets:
    """The shingle sets of some rows."""
    return shingles.sets(texts.take(pa.array(rows)), size)
