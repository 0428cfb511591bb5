"""Copies of what was repeated: of a cluster one document stays, and is shown to training more than once.

FineWeb2 (arXiv:2506.20920, "rehydration") found that documents which were repeated a few times are better than those
which never or very often were, and reads off the filters how much better: a cluster size whose documents the filters
drop as often as documents on average, or more often, is shown once; the size whose documents they drop least, most
often; what lies between, in proportion. The table that comes of it may be measured here, or given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, Field, model_validator

from tasks.curation.arrays import BoolArray, Float64Array, Int64Array

Table = dict[int, int]  # from this size of a cluster on -> so many copies in all, until a larger size says otherwise


class Params(BaseModel, frozen=True, extra="forbid"):
    """`copies`: a table for every language, or "measured"; `languages`: tables of single ones, ISO 639-1 codes."""

    copies: Table | Literal["measured"] = Field({2: 2, 4: 3, 100: 1}, min_length=1)
    languages: dict[str, Table] = Field(default_factory=dict)
    max_copies: int = Field(10, ge=1)  # "measured": of the best cluster size
    min_clusters: int = Field(100, ge=1)  # "measured": sizes with fewer clusters are taken together with the next
    window: int = Field(5, ge=1)  # "measured": neighboring sizes over which copies are averaged

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        given = [*self.languages.values(), *([self.copies] if isinstance(self.copies, dict) else [])]
        if any(min(table, default=1) < 1 or min(table.values(), default=1) < 1 for table in given):
            raise ValueError("copies: sizes are at least 1, copies at least 1")
        return self


@dataclass(frozen=True, slots=True)
class Step:
    """Clusters of `size` documents and more, up to the next step: how often shown; where measured, why."""

    size: int
    copies: int
    clusters: float | None = None
    drop_rate: float | None = None


Steps = Mapping[str, list[Step]]  # by language


def steps(params: Params, sizes: Int64Array, languages: npt.NDArray[Any], dropped: BoolArray) -> Steps:
    """The steps of each language that is there, as given or as measured.

    sizes: of each document's cluster, before filters if copies are to be measured; dropped: what filters dropped.
    """
    made: dict[str, list[Step]] = {}
    for code in np.unique(languages).tolist():
        mine, table = languages == code, params.languages.get(code, params.copies)
        if isinstance(table, dict):
            made[code] = [Step(size, table[size]) for size in sorted(table)]
        else:
            made[code] = measured(sizes[mine], dropped[mine], params)
    return made


def copies(sizes: Int64Array, languages: npt.NDArray[Any], steps: Steps, train: BoolArray) -> Int64Array:
    """How often each document is shown: by the steps of its language; what is held out, once."""
    shown = np.ones(len(sizes), np.int64)
    for language, some in steps.items():
        mine = train & (languages == language)
        times = np.array([1, *(step.copies for step in some)], np.int64)
        shown[mine] = times[np.searchsorted([step.size for step in some], sizes[mine], side="right")]
    return shown


def measured(sizes: Int64Array, dropped: BoolArray, params: Params) -> list[Step]:
    """The steps of one language by how often the filters drop documents of clusters of each size."""
    bins = _bins(sizes, dropped, params.min_clusters)
    if not bins:
        return []
    clusters, rates = np.array([n for _, n, _ in bins]), np.array([rate for _, _, rate in bins])
    average = float((clusters * rates).sum() / clusters.sum())
    better = np.maximum(average - rates, 0.0)
    shown = 1 + (params.max_copies - 1) * better / (better.max() or 1.0)
    whole = np.rint(_smoothed(shown, params.window)).astype(int).tolist()
    return [Step(size, times, n, rate) for (size, n, rate), times in zip(bins, whole, strict=True)]


def rehydrate(kept: pa.Table) -> pa.Table:
    """The rows, each as often as its column `copies` says, the copies behind it and named ID#2, ID#3 ..."""
    shown = kept["copies"].to_numpy()
    if (shown == 1).all():
        return kept
    rows = np.repeat(np.arange(len(shown)), shown)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(shown) - shown, shown)
    table = kept.take(pa.array(rows))
    names = [f"{name}#{n + 1}" if n else name for name, n in zip(table["id"].to_pylist(), place.tolist(), strict=True)]
    return table.set_column(table.schema.get_field_index("id"), "id", pa.array(names, pa.string()))


def _bins(sizes: Int64Array, dropped: BoolArray, least: int) -> list[tuple[int, float, float]]:
    """(smallest size, clusters, share dropped) of neighboring sizes with at least so many clusters together.

    A cluster of n documents counts n times 1 / n, as dropped by the share of its documents that is.
    """
    bins: list[list[float]] = []
    for size in np.unique(sizes).tolist():
        mine = sizes == size
        if not bins or bins[-1][1] >= least:
            bins.append([size, 0.0, 0.0])
        bins[-1][1] += mine.sum() / size
        bins[-1][2] += dropped[mine].sum() / size
    if len(bins) > 1 and bins[-1][1] < least:  # the rarest and largest
        _, clusters, gone = bins.pop()
        bins[-1][1] += clusters
        bins[-1][2] += gone
    return [(int(size), clusters, gone / clusters) for size, clusters, gone in bins]


def _smoothed(values: Float64Array, window: int) -> Float64Array:
    """The mean of `window` neighbors; as they are where there are not so many on either side."""
    half = window // 2
    made = values.copy()
    for i in range(half, len(values) - half):
        made[i] = values[i - half : i + half + 1].mean()
    return made
