"""Copies of repeated documents: one document of each cluster is kept, and training receives it more than once.

FineWeb2 (arXiv:2506.20920, "rehydration") found that documents which were repeated a few times are better than those
which were never or very often repeated. The drop rates of the filters tell how much better: a cluster size whose
documents are dropped at the average rate or above gets one copy, the size with the lowest drop rate gets `max_copies`,
and sizes between them get copies in proportion. The table of copies is measured in this way, or given in the params.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, model_validator

from tasks.curation.arrays import BoolArray, Float64Array, Int64Array, StringArray

CopyTable = dict[int, int]
"""From the smallest cluster size of a range to the number of copies; a range ends where the next one begins."""


class Params(BaseModel, frozen=True, extra="forbid"):
    """How many copies training receives of the document that is kept of a cluster."""

    copies: CopyTable | Literal["measured"] = Field(
        {2: 2, 4: 3, 100: 1},
        min_length=1,
        description="Number of copies by smallest cluster size: {2: 2, 4: 3} means 2 copies for clusters of 2 or 3 "
        'documents and 3 copies from 4 documents on. "measured" derives the table from the drop rates of the filters.',
    )
    languages: dict[str, CopyTable] = Field(
        default_factory=dict, description="Tables of copies for single languages, by ISO 639-1 code."
    )
    max_copies: int = Field(10, ge=1, description='With "measured": number of copies for the best cluster size.')
    min_clusters: int = Field(
        100, ge=1, description='With "measured": sizes with fewer clusters than this are joined with the next size.'
    )
    window: int = Field(
        5, ge=1, description='With "measured": number of neighboring sizes over which the copies are averaged.'
    )

    @model_validator(mode="after")
    def _tables_are_positive(self) -> Self:
        tables = [*self.languages.values(), *([self.copies] if isinstance(self.copies, dict) else [])]
        for table in tables:
            if min(table, default=1) < 1 or min(table.values(), default=1) < 1:
                raise ValueError(f"copies: expected cluster sizes and numbers of copies of at least 1, got {table}")
        return self


@dataclass(frozen=True, slots=True)
class CopyRule:
    """Clusters of `size` documents or more, up to the size of the next rule, get `copies` copies.

    Of a measured rule, `clusters` is the number of clusters and `drop_rate` the share that the filters dropped.
    """

    size: int
    copies: int
    clusters: float | None = None
    drop_rate: float | None = None


RulesByLanguage = Mapping[str, list[CopyRule]]


def copy_rules(params: Params, sizes: Int64Array, languages: StringArray, dropped: BoolArray) -> RulesByLanguage:
    """Return the rules for each language of the documents, as given or as measured.

    sizes: int64[n], the size of each document's cluster (made before filtering, if copies are to be measured);
    languages: str[n]; dropped: bool[n], whether a filter dropped the document.
    """
    rules: dict[str, list[CopyRule]] = {}
    for code in np.unique(languages).tolist():
        rows, table = languages == code, params.languages.get(code, params.copies)
        # A given table holds from each of its sizes to the next larger one.
        if isinstance(table, dict):
            rules[code] = [CopyRule(size, table[size]) for size in sorted(table)]
        else:
            rules[code] = measure_rules(sizes[rows], dropped[rows], params)
    return rules


def copy_counts(sizes: Int64Array, languages: StringArray, rules: RulesByLanguage, train: BoolArray) -> Int64Array:
    """Return the number of copies of each document by the rules of its language, 1 for held-out documents: int64[n]."""
    counts = np.ones(len(sizes), np.int64)
    for language, language_rules in rules.items():
        rows = train & (languages == language)
        # Below the smallest size of the rules there is one copy: searchsorted returns 0 there.
        copies = np.array([1, *(rule.copies for rule in language_rules)], np.int64)
        counts[rows] = copies[np.searchsorted([rule.size for rule in language_rules], sizes[rows], side="right")]
    return counts


def measure_rules(sizes: Int64Array, dropped: BoolArray, params: Params) -> list[CopyRule]:
    """Return the rules of one language, from the share of documents of each cluster size that the filters dropped."""
    bins = _size_bins(sizes, dropped, params.min_clusters)
    if not bins:
        return []
    num_clusters, rates = np.array([n for _, n, _ in bins]), np.array([rate for _, _, rate in bins])
    # The average over clusters, not documents: each bin counts by its number of clusters.
    average_rate = float((num_clusters * rates).sum() / num_clusters.sum())
    advantage = np.maximum(average_rate - rates, 0.0)
    # Linear from 1 copy at the average rate to `max_copies` at the lowest. If all rates are equal, every size gets 1.
    copies = 1 + (params.max_copies - 1) * advantage / (advantage.max() or 1.0)
    rounded = np.rint(_moving_average(copies, params.window)).astype(int).tolist()
    return [CopyRule(size, number, n, rate) for (size, n, rate), number in zip(bins, rounded, strict=True)]


def rehydrate(kept: pa.Table) -> pa.Table:
    """Repeat each row as often as its column `copies` says. Copies follow their row and have the ids ID#2, ID#3 ..."""
    copies = kept["copies"].to_numpy()
    if (copies == 1).all():
        return kept
    rows = np.repeat(np.arange(len(copies)), copies)
    # The number of each copy within its document: 0, 1 ... copies - 1.
    numbers = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
    table = kept.take(pa.array(rows))
    ids = [f"{name}#{n + 1}" if n else name for name, n in zip(table["id"].to_pylist(), numbers.tolist(), strict=True)]
    return table.set_column(table.schema.get_field_index("id"), "id", pa.array(ids, pa.string()))


def _size_bins(sizes: Int64Array, dropped: BoolArray, min_clusters: int) -> list[tuple[int, float, float]]:
    """Return (smallest size, number of clusters, share dropped) of neighboring sizes, joined up to `min_clusters`.

    A cluster of n documents appears as n rows, each of which counts 1 / n. It counts as dropped by the share of its
    documents that were dropped.
    """
    bins: list[list[float]] = []
    for size in np.unique(sizes).tolist():
        rows = sizes == size
        if not bins or bins[-1][1] >= min_clusters:
            bins.append([size, 0.0, 0.0])
        bins[-1][1] += rows.sum() / size
        bins[-1][2] += dropped[rows].sum() / size
    if len(bins) > 1 and bins[-1][1] < min_clusters:  # the largest sizes, which have no next size, join the previous
        _, num_clusters, num_dropped = bins.pop()
        bins[-1][1] += num_clusters
        bins[-1][2] += num_dropped
    return [(int(size), num_clusters, num_dropped / num_clusters) for size, num_clusters, num_dropped in bins]


def _moving_average(values: Float64Array, window: int) -> Float64Array:
    """Return the mean of `window` neighbors; at both ends, where there are fewer neighbors, the value itself."""
    half = window // 2
    averages = values.copy()
    for i in range(half, len(values) - half):
        averages[i] = values[i - half : i + half + 1].mean()
    return averages
