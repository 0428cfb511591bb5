"""The documents under judgment: what is known of each, and what became of it. The texts themselves stay on disk."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks import documents
from tasks.curation import filtering, text_files
from tasks.curation.arrays import BoolArray, Float64Array, Int64Array, ObjectArray, StringArray
from tasks.curation.filtering import KEPT, Bound, ParamsByLanguage
from tasks.curation.signals.signals import Signals

COLUMNS = ("id", "source", "split")  # what is held in memory of every document, beside its signals

CURATED = pa.schema([*documents.SCHEMA, pa.field("language", pa.string()), pa.field("cluster_size", pa.int64())])
DROPPED = pa.schema(
    [
        *CURATED,
        pa.field("reason", pa.string(), nullable=False),  # "filter.reason", "exact.duplicate", "minhash.duplicate" ...
        pa.field("value", pa.float64()),  # what decided, where a value did
        pa.field("duplicate_of", pa.string()),  # the id kept in its place; of contamination, set/example
    ]
)


@dataclass
class Corpus:
    """One entry per document in every column, in the order of data/documents; `texts` holds those of `text_rows`."""

    columns: pa.Table
    signals: Signals
    filter_params: ParamsByLanguage
    reasons: ObjectArray  # KEPT, or why it was dropped
    values: Float64Array
    bounds: Sequence[Bound]
    scratch: Path
    texts: pa.ChunkedArray
    text_rows: Int64Array  # the rows not dropped when `texts` was written
    evidence: ObjectArray
    original_rows: Int64Array  # the row that each row repeats, itself where none
    replaced: dict[int, str] = field(default_factory=dict)  # texts of which something held out was cut away
    counts: Counter[str] = field(default_factory=Counter)  # what was done to texts that stay
    copies: Int64Array | None = None  # how often each is to be shown; None: once
    copy_rules: list[dict[str, Any]] = field(default_factory=list)  # by language and cluster size, why
    notes: list[str] = field(default_factory=list)  # warnings for the report

    @property
    def kept(self) -> BoolArray:
        """Where nothing has been said against a document so far."""
        return np.asarray(self.reasons == KEPT, np.bool_)

    @property
    def filtered(self) -> BoolArray:
        """Which documents a filter dropped."""
        filters = {bound.reason.split(".")[0] for bound in self.bounds}
        return np.array([reason.split(".")[0] in filters for reason in self.reasons.tolist()], np.bool_)

    @property
    def filter_languages(self) -> StringArray:
        """The language whose filters judged each document."""
        return filtering.filter_languages(self.signals, self.filter_params)

    def remaining(self) -> tuple[Int64Array, pa.ChunkedArray]:
        """The rows still kept and their texts."""
        kept = self.kept[self.text_rows]
        if not kept.all():
            path = self.scratch / f"texts-{int(kept.sum())}.arrow"
            self.texts, self.text_rows = text_files.filter_texts(path, self.texts, kept), self.text_rows[kept]
        return self.text_rows, self.texts

    def priority(self, rows: Int64Array, prefer: str | None) -> npt.NDArray[Any]:
        """Which of several copies is kept: what is held out, then what has more of the signal `prefer`, to .01."""
        held_out = split_precedence(self.column("split", rows))
        if prefer is None:
            return held_out
        values = np.round(np.asarray(getattr(self.signals, prefer)[rows], np.float64), 2)
        return np.asarray(held_out * (1 + values.max(initial=0)) + values)

    def num_bytes(self, rows: Int64Array) -> int:
        """The size of the texts of some rows, as they came."""
        return int(self.signals.num_bytes[rows].sum())

    def column(self, name: str, rows: Int64Array) -> pa.ChunkedArray:
        """A small column of some rows."""
        return self.columns[name].take(pa.array(rows))

    def drop_copies(self, rows: Int64Array, copy_of: Int64Array, reason: str) -> None:
        """Drop rows[i] where copy_of[i] >= 0: it repeats rows[copy_of[i]]."""
        copies = copy_of >= 0
        self.reasons[rows[copies]] = reason
        self.original_rows[rows[copies]] = rows[copy_of[copies]]
        for _ in range(2):  # what repeats a copy repeats what that copy repeats
            self.original_rows = self.original_rows[self.original_rows]

    def drop_indexed(self, rows: Int64Array, known_as: ObjectArray, reason: str) -> None:
        """Drop rows[i] where known_as[i] is the id of a document, of this run or an earlier one, that it repeats."""
        known = np.array([name is not None for name in known_as.tolist()], np.bool_)
        names = known_as[known]
        self.reasons[rows[known]], self.evidence[rows[known]] = reason, names
        here = pc.index_in(pa.array(names.tolist(), pa.string()), self.columns["id"]).fill_null(-1).to_numpy()
        self.original_rows[rows[known]] = np.where(here < 0, rows[known], here)

    def replace_texts(self, rows: Int64Array, texts: Iterable[pa.Array], reason: str) -> None:
        """Take `texts` for those of `rows`, all that remain; drop, for `reason`, those of which nothing is left."""
        self.texts = text_files.write(self.scratch / f"texts-{reason}.arrow", texts)
        bare = pc.utf8_trim_whitespace(self.texts)
        self.reasons[rows[np.asarray(pc.equal(bare, ""), np.bool_)]] = reason

    def cluster_sizes(self) -> Int64Array:
        """How many documents each one's cluster has."""
        return np.bincount(self.original_rows, minlength=len(self.original_rows))[self.original_rows]

    def by_reason(self) -> list[tuple[str, int]]:
        """Reasons and how many documents each dropped, most first."""
        reasons, counts = np.unique(self.reasons[~self.kept].astype(str), return_counts=True)
        return sorted(zip(reasons.tolist(), counts.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))

    def make_divider(self) -> Callable[[tuple[int, pa.Table]], tuple[pa.Table, pa.Table]]:
        """A function from some documents, and the row of their first, to (kept, dropped): CURATED, DROPPED and copies.

        Several threads may call it at once.
        """
        sizes, kept, duplicate_of = self.cluster_sizes(), self.kept, self._duplicate_of()
        waiting = kept[self.text_rows]

        def divide(placed: tuple[int, pa.Table]) -> tuple[pa.Table, pa.Table]:
            first, shard = placed
            part = slice(first, first + shard.num_rows)
            shard = shard.append_column("language", pa.array(self.signals.language[part].tolist(), pa.string()))
            shard = shard.append_column("cluster_size", pa.array(sizes[part]))
            if self.copies is not None:
                shard = shard.append_column("copies", pa.array(self.copies[part]))
            rows, gone = np.flatnonzero(kept[part]), np.flatnonzero(~kept[part])
            dropped = shard.take(pa.array(gone))
            dropped = dropped.append_column("reason", pa.array(self.reasons[part][gone].tolist(), pa.string()))
            values = self.values[part][gone]
            dropped = dropped.append_column("value", pa.array(values, pa.float64(), mask=np.isnan(values)))
            dropped = dropped.append_column("duplicate_of", duplicate_of.take(pa.array(first + gone)))
            return self._current(shard.take(pa.array(rows)), part, waiting), dropped

        return divide

    def _current(self, table: pa.Table, part: slice, waiting: BoolArray) -> pa.Table:
        """The rows kept of `part`, with the texts that the steps before have left of them; waiting: which are kept."""
        begin, end = np.searchsorted(self.text_rows, [part.start, part.stop]).tolist()
        kept = waiting[begin:end]
        texts, rows = self.texts.slice(begin, end - begin).filter(pa.array(kept)), self.text_rows[begin:end][kept]
        mine = [row for row in rows.tolist() if row in self.replaced] if self.replaced else []
        if mine:
            new = pa.array([self.replaced[row] for row in mine], pa.large_string())
            texts = pc.replace_with_mask(texts, pa.array(np.isin(rows, mine)), new)
        return table.set_column(table.schema.get_field_index("text"), "text", texts)

    def _duplicate_of(self) -> pa.Array:
        alone = self.original_rows == np.arange(len(self.original_rows))
        ids = self.columns["id"].combine_chunks().take(pa.array(self.original_rows, mask=alone))
        return pc.coalesce(ids, pa.array(self.evidence.tolist(), pa.string()))


def with_first_rows(parts: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Each part with the row of its first document."""
    first = 0
    for part in parts:
        yield first, part
        first += part.num_rows


def split_precedence(splits: pa.ChunkedArray) -> Int64Array:
    """Which of several copies is kept: test before validation before train, so that held-out text stays held out."""
    order: Any = pc.index_in(splits, pa.array(documents.SPLITS))
    return np.asarray(order.to_numpy(), np.int64)
