"""All documents during curation: their signals and outcomes, one array entry per document. Texts remain on disk."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks import documents
from tasks.curation import filtering, text_files
from tasks.curation.arrays import BoolArray, Float64Array, Int8Array, Int32Array, Int64Array, ObjectArray, StringArray
from tasks.curation.filtering import Bound, ParamsByLanguage, PartCounts
from tasks.curation.outcomes import Outcomes
from tasks.curation.signals.signals import Signals
from tasks.curation.text.words import take

COLUMNS = ("id", "source", "split")  # columns of data/documents that steps read
BLOCK_ROWS = 1 << 16  # documents whose strings are compared at once

Encoded = tuple[list[str], Int32Array]
"""The different values of a column in ascending order, and the position there of each document's value, int32[n]."""

CURATED = pa.schema([*documents.SCHEMA, pa.field("language", pa.string()), pa.field("cluster_size", pa.int64())])
DROPPED = pa.schema(
    [
        *CURATED,
        pa.field("reason", pa.string(), nullable=False),  # "filter.reason", "exact.duplicate", "minhash.duplicate" ...
        pa.field("value", pa.float64()),  # the value that decided, null if there is none
        pa.field("duplicate_of", pa.string()),  # id of the document kept instead; for contamination, set/example
    ]
)


@dataclass
class Corpus:
    """The state of curation. All arrays have one entry per document, in the order of data/documents.

    columns, signals and values are mapped into memory; the other arrays take about 14 bytes per document.
    columns: the COLUMNS of the document table.
    reasons: why documents were dropped; values: the deciding value, NaN if there is none.
    bounds: every bound that documents were compared with; parts: as in `Decision`, for the report.
    scratch: the folder for files with texts.
    texts: the texts of the documents `text_rows`, which no step had dropped when `texts` was written to `texts_file`.
    evidence: row -> "set/example" of the held-out text that a document shares, or the id of a document of an earlier
        run that it repeats.
    original_rows: the row of the kept document that a document repeats; its own row if it repeats none.
    replaced: row -> text from which held-out parts were removed.
    counts: numbers of changes to kept texts, for the report.
    copies: how often each document is shown to training; None means once. copy_rules: the reasons, for the report.
    boilerplate: passages that many texts share, which are no evidence of contamination, for the report.
    notes: warnings for the report.
    """

    columns: pa.Table
    signals: Signals
    filter_params: ParamsByLanguage
    reasons: Outcomes
    values: Float64Array
    bounds: Sequence[Bound]
    parts: PartCounts
    scratch: Path
    texts: pa.ChunkedArray
    texts_file: Path
    text_rows: Int64Array
    original_rows: Int32Array
    evidence: dict[int, str] = field(default_factory=dict)
    replaced: dict[int, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    copies: Int64Array | None = None
    copy_rules: list[dict[str, Any]] = field(default_factory=list)
    boilerplate: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def kept(self) -> BoolArray:
        """Which documents have not been dropped so far."""
        return self.reasons.kept

    @property
    def filtered(self) -> BoolArray:
        """Which documents a filter dropped, in contrast to deduplication or decontamination."""
        return self.reasons.in_steps({bound.reason.split(".")[0] for bound in self.bounds})

    @cached_property
    def languages(self) -> Encoded:
        """The languages of the documents."""
        return encode_strings(self.signals.language)

    @property
    def filter_languages(self) -> StringArray:
        """The language whose filters were applied to each document."""
        return filtering.filter_languages(self.signals.language, self.filter_params)

    def filtered_as(self, language: str) -> BoolArray:
        """Return to which documents the filters of a language were applied, bool[n]."""
        names, codes = self.languages
        applied = filtering.filter_languages(np.array(names, np.str_), self.filter_params)
        return np.asarray(applied == language, np.bool_)[codes]

    def remaining(self) -> tuple[Int64Array, pa.ChunkedArray]:
        """Return the rows of the documents that are still kept, and their texts."""
        kept = self.kept[self.text_rows]
        if not kept.all():
            path = self.scratch / f"texts-{int(kept.sum())}.arrow"
            self._set_texts(path, text_files.filter_texts(path, self.texts, kept))
            self.text_rows = self.text_rows[kept]
        return self.text_rows, self.texts

    def priority(self, rows: Int64Array, prefer: str | None) -> npt.NDArray[Any]:
        """Return a number for each row; of several copies, the one with the greatest number is kept.

        Held-out documents come first, then those with a greater value of the signal `prefer`, rounded to 0.01 so that
        tiny differences do not outweigh the length, which decides between equal numbers.
        """
        held_out = self.split_precedence(rows)
        if prefer is None:
            return held_out
        values = np.round(np.asarray(getattr(self.signals, prefer)[rows], np.float64), 2)
        return np.asarray(held_out * (1 + values.max(initial=0)) + values)

    def split_precedence(self, rows: Int64Array) -> Int8Array:
        """Return what `split_precedence` returns, for some rows."""
        return split_precedence(self.columns["split"])[rows]

    def ids_of(self, rows: Int64Array) -> Callable[[Int64Array], pa.ChunkedArray]:
        """Return a function from positions in `rows` to the ids of these documents."""
        return lambda positions: self.column("id", rows[positions])

    def num_bytes(self, rows: Int64Array) -> int:
        """Return the size of the texts of some rows in bytes, as ingested."""
        return int(self.signals.num_bytes[rows].sum())

    def column(self, name: str, rows: Int64Array) -> pa.ChunkedArray:
        """Return one of the COLUMNS for some rows."""
        return pa.chunked_array([take(self.columns[name], rows)])

    def drop_copies(self, rows: Int64Array, copy_of: Int64Array, reason: str) -> None:
        """Drop rows[i] if copy_of[i] >= 0, because it repeats rows[copy_of[i]]."""
        is_copy = copy_of >= 0
        self.reasons.drop(rows[is_copy], reason)
        self.original_rows[rows[is_copy]] = rows[copy_of[is_copy]]
        # A document may repeat one that was itself dropped as a copy, now or in the step before (an exact copy of a
        # near-duplicate). Following the reference twice leads to a kept document.
        for _ in range(2):
            self.original_rows = self.original_rows[self.original_rows]

    def drop_indexed(self, rows: Int64Array, duplicate_of: ObjectArray, reason: str) -> None:
        """Drop rows[i] if duplicate_of[i] is the id of a document, of this or an earlier run, that it repeats."""
        is_duplicate = np.array([name is not None for name in duplicate_of.tolist()], np.bool_)
        names, duplicate_rows = duplicate_of[is_duplicate], rows[is_duplicate]
        self.reasons.drop(duplicate_rows, reason)
        self.evidence.update(zip(duplicate_rows.tolist(), names.tolist(), strict=True))
        original = pc.index_in(pa.array(names.tolist(), pa.string()), self.columns["id"]).fill_null(-1).to_numpy()
        # A document of an earlier run has no row here; then the id in `evidence` is the only reference.
        self.original_rows[duplicate_rows] = np.where(original < 0, duplicate_rows, original)

    def _set_texts(self, path: Path, texts: pa.ChunkedArray) -> None:
        """Use the texts of a new file from now on, and delete the earlier one."""
        if path != self.texts_file:
            self.texts_file.unlink(missing_ok=True)  # what still maps it into memory keeps it
        self.texts_file, self.texts = path, texts

    def replace_texts(self, rows: Int64Array, texts: Iterable[pa.Array], reason: str) -> None:
        """Replace the texts of `rows`, which are all remaining rows, and drop those that became empty, for `reason`."""
        path = self.scratch / f"texts-{reason}.arrow"
        self._set_texts(path, text_files.write(path, texts))
        stripped = pc.utf8_trim_whitespace(self.texts)
        self.reasons.drop(rows[np.asarray(pc.equal(stripped, ""), np.bool_)], reason)

    def cluster_sizes(self) -> Int64Array:
        """Return the number of documents in the cluster of each document; 1 without duplicates."""
        return np.bincount(self.original_rows, minlength=len(self.original_rows))[self.original_rows]

    def by_reason(self) -> list[tuple[str, int]]:
        """Return each reason and the number of documents dropped for it, the most frequent reason first."""
        return sorted(self.reasons.count().items(), key=lambda pair: (-pair[1], pair[0]))

    def make_divider(self) -> Callable[[tuple[int, pa.Table]], tuple[pa.Table, pa.Table]]:
        """Return a function from (row of the first document, part of data/documents) to (kept, dropped).

        The tables have the columns of CURATED and DROPPED, and `copies` if the corpus has it. Several threads may call
        the function at once.
        """
        sizes, kept = self.cluster_sizes(), self.kept
        text_kept = kept[self.text_rows]

        def divide(numbered_part: tuple[int, pa.Table]) -> tuple[pa.Table, pa.Table]:
            first, part = numbered_part
            rows = slice(first, first + part.num_rows)
            part = part.append_column("language", pa.array(self.signals.language[rows].tolist(), pa.string()))
            part = part.append_column("cluster_size", pa.array(sizes[rows]))
            if self.copies is not None:
                part = part.append_column("copies", pa.array(self.copies[rows]))
            kept_rows, dropped_rows = np.flatnonzero(kept[rows]), np.flatnonzero(~kept[rows])
            dropped = part.take(pa.array(dropped_rows))
            reasons, values = self.reasons.take(first + dropped_rows), self.values[rows][dropped_rows]
            dropped = dropped.append_column("reason", pa.array(reasons, pa.string()))
            dropped = dropped.append_column("value", pa.array(values, pa.float64(), mask=np.isnan(values)))
            dropped = dropped.append_column("duplicate_of", self._duplicate_of(first + dropped_rows))
            return self._with_current_texts(part.take(pa.array(kept_rows)), rows, text_kept), dropped

        return divide

    def _with_current_texts(self, table: pa.Table, rows: slice, text_kept: BoolArray) -> pa.Table:
        """Return `table`, the kept documents of `rows`, with their texts as the steps of curation changed them.

        text_kept: bool [text_rows], which of `texts` belong to kept documents.
        """
        # text_rows is sorted, so the texts of the rows are neighbors.
        begin, end = np.searchsorted(self.text_rows, [rows.start, rows.stop]).tolist()
        kept = text_kept[begin:end]
        texts, kept_rows = self.texts.slice(begin, end - begin).filter(pa.array(kept)), self.text_rows[begin:end][kept]
        replaced_rows = [row for row in kept_rows.tolist() if row in self.replaced] if self.replaced else []
        if replaced_rows:
            new_texts = pa.array([self.replaced[row] for row in replaced_rows], pa.large_string())
            texts = pc.replace_with_mask(texts, pa.array(np.isin(kept_rows, replaced_rows)), new_texts)
        return table.set_column(table.schema.get_field_index("text"), "text", texts)

    def _duplicate_of(self, rows: Int64Array) -> pa.Array:
        """Return the id of the document that each of some rows repeats, or else its evidence, or null."""
        evidence = pa.array([self.evidence.get(row) for row in rows.tolist()], pa.string())
        originals = self.original_rows[rows]
        is_copy = originals != rows
        return pc.replace_with_mask(evidence, pa.array(is_copy), take(self.columns["id"], originals[is_copy]))


def encode_strings(values: StringArray) -> Encoded:
    """Return the values as Encoded: a few bytes each, where NumPy needs four times the length of the longest one."""
    codes, code_of = np.empty(len(values), np.int32), dict[str, int]()
    for first in range(0, len(values), BLOCK_ROWS):
        block = slice(first, first + BLOCK_ROWS)
        names, places = np.unique(values[block], return_inverse=True)
        codes[block] = np.array([code_of.setdefault(name, len(code_of)) for name in names.tolist()], np.int32)[places]
    return _in_order(list(code_of), codes)


def encode_column(column: pa.ChunkedArray) -> Encoded:
    """Return a column of Arrow strings without nulls as Encoded."""
    encoded = pc.dictionary_encode(column).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # without rows
        return [], np.empty(0, np.int32)
    return _in_order(encoded.dictionary.to_pylist(), encoded.indices.to_numpy())


def _in_order(names: Sequence[str], codes: Int32Array) -> Encoded:
    in_order = sorted(names)
    place_of = {name: place for place, name in enumerate(in_order)}
    return in_order, np.array([place_of[name] for name in names], np.int32)[codes]


def with_first_rows(parts: Iterable[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Yield (row of its first document, part) for each part."""
    first = 0
    for part in parts:
        yield first, part
        first += part.num_rows


def split_precedence(splits: pa.ChunkedArray) -> Int8Array:
    """Return the position of each split in train, validation, test.

    Of several copies, the one with the greater position is kept, so that held-out text is not lost to training.
    """
    order: Any = pc.index_in(splits, pa.array(documents.SPLITS))
    return np.asarray(order.to_numpy(), np.int8)
