"""Passages that many training texts or many examples share, such as footers, licenses, templates and quotations.

They prove no leak. An n-gram in many texts is boilerplate as a whole. A rare n-gram can still consist of boilerplate
for the most part, because it overlaps a footer or contains one word that a template leaves open. Therefore parts of
half its size are counted, too, and tokens in frequent parts are common.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.curation.arrays import BoolArray, Int64Array
from tasks.curation.contamination.contamination import Index
from tasks.curation.text import folding, ngrams, words
from tasks.curation.text.words import Texts, byte_lengths, chunks
from tasks.curation.threads import ProgressCallback, ignore_progress, map_in_threads

SAMPLE_BYTES = 8 << 20  # training text in which parts of n-grams are counted
SHARE_OF_TEXTS = 0.01  # of the sample; a part in more texts than this is common. 6 common words can meet by chance.
SHARE_OF_EXAMPLES = 0.5  # several examples may ask about one passage, so that a small share proves nothing
MAX_PASSAGES, MAX_CHARACTERS = 200, 1000  # in the report


@dataclass(frozen=True)
class Survey:
    """How many of `num_texts` training texts contain each n-gram of the index.

    counts: int64[entries]. pairs: int64[k, 2] of (row, entry), for all n-grams that may prove a leak. num_matched: how
    many texts contain any n-gram.
    """

    num_texts: int
    counts: Int64Array
    pairs: Int64Array
    num_matched: int


@dataclass(frozen=True)
class Boilerplate:
    """Which n-grams of an index are boilerplate. counts: int64[entries], training texts that contain each."""

    is_common: BoolArray
    counts: Int64Array

    def passages(self, index: Index) -> list[dict[str, Any]]:
        """Return the passages of boilerplate in training text, with the number of texts and examples that have them."""
        entries = np.flatnonzero(self.is_common & (self.counts > 0) & (index.entries[:, 2] <= _longest(index)))
        order = np.lexsort(index.entries[entries, 1::-1].T)  # by example, then by first token
        entries = entries[order]
        if not len(entries):
            return []
        example, start, size = index.entries[entries].T
        # A passage continues while the next n-gram of the same example begins before the end of the one before.
        is_new = np.concatenate([[True], (np.diff(example) != 0) | (start[1:] > (start + size)[:-1])])
        firsts = np.flatnonzero(is_new)
        num_texts = np.maximum.reduceat(self.counts[entries], firsts)
        num_examples = np.maximum.reduceat(index.num_examples[entries], firsts)
        ends = np.maximum.reduceat(start + size, firsts)
        rows = []
        for i in np.lexsort([firsts, -num_examples, -num_texts])[:MAX_PASSAGES].tolist():
            text = index.passage(int(example[firsts[i]]), int(start[firsts[i]]), int(ends[i]))
            row = {"training_texts": int(num_texts[i]), "examples": int(num_examples[i])}
            rows.append({**row, "text": text[:MAX_CHARACTERS]})
        return rows


def survey(
    texts: Texts,
    index: Index,
    selected: BoolArray | None = None,
    units: Int64Array | None = None,
    threads: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> Survey:
    """Count in how many texts each n-gram of the index occurs, in one pass.

    selected: bool[n], which texts are training texts, None for all. units: int64[n]; texts of one unit, such as answers
    to the same prompt, count once. They must be neighbors. `on_progress` receives the bytes of text that were read.
    """
    units = np.arange(len(texts)) if units is None else units
    selected = np.ones(len(texts), np.bool_) if selected is None else selected
    is_frequent, num_entries = _frequent_in_examples(index), max(len(index.entries), 1)

    def pairs_of_chunk(part: tuple[int, Texts]) -> tuple[Int64Array, int]:
        start, chunk = part
        matches = find_matches(chunk, index)
        matches[:, 0] += start
        matches = matches[selected[matches[:, 0]]]
        return _distinct_pairs(matches[:, 0], matches[:, 3], num_entries), int(byte_lengths(chunk).sum())

    counts, kept, num_matched = np.zeros(len(index.entries), np.int64), [np.empty((0, 2), np.int64)], 0
    folding.fold_table()  # built here once: each thread that finds it missing would build its own
    for pairs, size in map_in_threads(pairs_of_chunk, chunks(texts), threads):
        on_progress(size)
        if len(pairs):
            counted = _distinct_pairs(units[pairs[:, 0]], pairs[:, 1], num_entries)[:, 1]
            np.add.at(counts, counted, 1)
            num_matched += len(np.unique(pairs[:, 0]))
            # An n-gram that is boilerplate already need not be remembered, which bounds the memory.
            may_leak = ~is_frequent & (counts <= index.params.max_occurrences) | index.is_whole
            kept.append(pairs[may_leak[pairs[:, 1]]])
    return Survey(len(np.unique(units[selected])), counts, np.concatenate(kept), num_matched)


def recognize(index: Index, surveys: Sequence[Survey]) -> Boilerplate:
    """Return which n-grams are boilerplate: frequent among examples, in one set of training texts, or in all."""
    total = sum((each.counts for each in surveys), np.zeros(len(index.entries), np.int64))
    is_common = _frequent_in_examples(index)
    for counts, num_texts in [
        (total, sum(each.num_texts for each in surveys)),
        *((each.counts, each.num_texts) for each in surveys),
    ]:
        is_common |= counts > index.params.limit(num_texts, index.params.max_share)
    return Boilerplate(is_common, total)


def find_matches(texts: Texts, index: Index) -> Int64Array:
    """Return each n-gram of the texts whose hash is in the index [n, 4]: row, first token, number of tokens, entry."""
    return _find(texts, index.params.words, index.params.characters, index.lookup)


def common_parts(texts: Texts, units: Int64Array, index: Index, examples: Int64Array) -> ngrams.NgramTable | None:
    """Return the parts of some examples that are common in a sample of the training texts, or None without any.

    A part has half the size of an n-gram. units: int64[n] as in `survey`.
    """
    size = _part_sizes(index)
    example_texts = pa.array([index.examples[example][2] for example in examples.tolist()], pa.large_string())
    hashes, places = ngrams.list_ngrams(example_texts, *size)
    parts = np.unique(hashes[places[:, 3] == 0])
    if not len(parts):
        return None
    lookup = ngrams.build_table(parts)
    stride = max(1, -(-int(byte_lengths(texts).sum()) // SAMPLE_BYTES))
    sample_units = units[::stride]
    sample = texts if stride == 1 else words.take(texts, np.arange(0, len(texts), stride))
    counts = np.zeros(len(parts), np.int64)
    for start, chunk in chunks(sample):
        matches = _find(chunk, *size, lookup)
        np.add.at(counts, _distinct_pairs(sample_units[matches[:, 0] + start], matches[:, 3], len(parts))[:, 1], 1)
    num_units = len(np.unique(sample_units))
    limit = max(index.params.limit(num_units, index.params.max_share), int(SHARE_OF_TEXTS * num_units))
    is_common = counts > limit
    return ngrams.build_table(parts[is_common]) if is_common.any() else None


def find_parts(texts: Texts, index: Index, parts: ngrams.NgramTable) -> Int64Array:
    """Return each common part in the texts [n, 4]: row, first token, number of tokens, entry of `parts`."""
    return _find(texts, *_part_sizes(index), parts)


def _part_sizes(index: Index) -> tuple[int, int]:
    """Return the numbers of words and of characters of a part."""
    return max(2, index.params.words // 2), max(2, index.params.characters // 2)


def _find(texts: Texts, num_words: int, num_characters: int, lookup: ngrams.NgramTable) -> Int64Array:
    def parts() -> Iterator[Int64Array]:
        for first, data, offsets in words.padded_buffers(texts):
            matches = ngrams.find_ngrams(data, offsets, num_words, num_characters, lookup)
            matches[:, 0] += first
            yield matches

    return np.concatenate([np.empty((0, 4), np.int64), *parts()])


def _frequent_in_examples(index: Index) -> BoolArray:
    num_examples = sum(len(each.ids) for each in index.sets)
    return np.asarray(index.num_examples > index.params.limit(num_examples, SHARE_OF_EXAMPLES), np.bool_)


def _distinct_pairs(first: Int64Array, second: Int64Array, num_second: int) -> Int64Array:
    """Return the distinct pairs [k, 2] of two arrays, sorted. `second` is less than `num_second`."""
    return np.stack(np.divmod(np.unique(first * num_second + second), num_second), axis=1)


def _longest(index: Index) -> int:
    return max(index.params.words, index.params.characters)
