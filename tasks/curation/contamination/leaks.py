"""Find training texts that share an n-gram with a held-out example, and cut the shared passages out of them.

An n-gram proves a leak if at least half of its tokens are neither boilerplate nor in common parts (boilerplate.py). A
text that equals an example from end to end is a leak whatever it consists of. n-grams are found by rolling hashes and
then compared token by token, so that no hash collision drops a text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import numpy as np

from tasks.curation.arrays import BoolArray, Int64Array
from tasks.curation.contamination import boilerplate
from tasks.curation.contamination.boilerplate import Boilerplate, Survey
from tasks.curation.contamination.contamination import Index, Params
from tasks.curation.text import ngrams, words
from tasks.curation.text.words import Texts
from tasks.curation.threads import ProgressCallback, ignore_progress

ROWS = 1024  # candidate texts that are examined at once


@dataclass(frozen=True, slots=True)
class Hit:
    """An n-gram that a text shares with an example. `start` and `size` are in tokens of the text."""

    set_name: str
    example_id: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Leak:
    """A contaminated text, and what it shares with examples, in order; at least one hit."""

    row: int
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What training text is compared with: the n-grams of held-out text, and which of them are boilerplate."""

    index: Index
    common: Boilerplate


def scan(
    texts: Texts,
    index: Index,
    selected: BoolArray | None = None,
    threads: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> Iterator[Leak]:
    """Yield the contaminated texts, ordered by row, where `texts` are all training texts.

    selected: bool[n], which texts to scan, None for all. `on_progress` receives the bytes of text that were read.
    """
    survey = boilerplate.survey(texts, index, selected, None, threads, on_progress)
    yield from find(texts, Comparison(index, boilerplate.recognize(index, [survey])), survey)


def find(texts: Texts, comparison: Comparison, survey: Survey, units: Int64Array | None = None) -> Iterator[Leak]:
    """Yield the contaminated texts, ordered by row. survey, units: of these texts (see `boilerplate.survey`)."""
    index, common = comparison.index, comparison.common
    rows, entries = survey.pairs.T
    is_candidate = ~common.is_common[entries] | index.is_whole[entries]
    candidates, examples = np.unique(rows[is_candidate]), np.unique(index.entries[entries[is_candidate], 0])
    if not len(candidates):
        return
    parts = boilerplate.common_parts(texts, np.arange(len(texts)) if units is None else units, index, examples)
    for first in range(0, len(candidates), ROWS):
        some = candidates[first : first + ROWS]
        some_texts = words.take(texts, some)
        proofs = _proofs(some_texts, index, common.is_common, parts)
        for position, matches in groupby(proofs.tolist(), itemgetter(0)):
            hits = tuple(_confirmed(some_texts[position].as_py(), list(matches), index))
            if hits:
                yield Leak(int(some[position]), hits)


def remove_passages(text: str, hits: Sequence[Hit], params: Params) -> str | None:
    """Return the text without its shared n-grams and a margin around each; the rest is joined by line breaks.

    Returns None if too little is left, or if there are more than `max_cuts` separate passages to remove.
    """
    tokens = list(words.token_spans(text))
    is_removed = np.zeros(len(text), np.bool_)
    num_cuts, end = 0, -1
    for hit in sorted(hits, key=lambda hit: hit.start):  # so that overlapping n-grams follow each other
        num_cuts += hit.start > end  # overlapping n-grams are one cut
        end = max(end, hit.start + hit.size)
        low, high = tokens[hit.start][1], tokens[hit.start + hit.size - 1][2]
        is_removed[max(0, low - params.margin) : high + params.margin] = True
    # Pairs of (start, end) of what remains: where is_removed changes, with removed text assumed at both ends.
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_removed, [True]])))
    parts = [text[start:end].strip() for start, end in edges.reshape(-1, 2)]
    remaining = "\n".join(part for part in parts if part)
    if not remaining or num_cuts > params.max_cuts or len(remaining) < params.min_remaining * len(text.strip()):
        return None
    return remaining


def _proofs(texts: Texts, index: Index, is_common: BoolArray, parts: ngrams.NgramTable | None) -> Int64Array:
    """Return the matches that prove a leak, in order [k, 5]: row, first token, size, entry, and 0 or 1.

    0 stands for the beginning of a text that proves a leak only if the text equals an example from end to end.
    """
    matches = boilerplate.find_matches(texts, index)
    row, start, size, entry = matches.T
    # All tokens of all texts in one row of places; a text has at most one token per byte.
    bases = np.concatenate([[0], np.cumsum(words.byte_lengths(texts) + 1)])
    # The whole of a text that equals an example is no passage of it.
    is_passage = is_common[entry] & (size <= max(index.params.words, index.params.characters))
    spans = [np.stack([bases[row] + start, size])[:, is_passage]]
    if parts is not None:
        part_row, part_start, part_size, _ = boilerplate.find_parts(texts, index, parts).T
        spans.append(np.stack([bases[part_row] + part_start, part_size]))
    places = bases[row] + start
    own = size - _covered(places, places + size, *np.concatenate(spans, axis=1))
    is_proof = ~is_common[entry] & (2 * own >= size)
    proofs: Int64Array = np.column_stack([matches, is_proof])[is_proof | index.is_whole[entry] & (start == 0)]
    return proofs


def _covered(begins: Int64Array, ends: Int64Array, span_begins: Int64Array, span_sizes: Int64Array) -> Int64Array:
    """Return how many places of each range [begin, end) are in any of the spans, which may overlap."""
    order = np.argsort(span_begins, kind="stable")
    firsts, lasts = span_begins[order], np.maximum.accumulate((span_begins + span_sizes)[order])
    is_new = np.concatenate([[True], firsts[1:] > lasts[:-1]])[: len(firsts)]  # spans that touch no earlier one
    starts = firsts[is_new]
    stops = lasts[np.append(np.flatnonzero(is_new)[1:] - 1, len(lasts) - 1)] if len(lasts) else lasts
    totals = np.concatenate([[0], np.cumsum(stops - starts)])

    def covered_before(places: Int64Array) -> Int64Array:
        before = np.searchsorted(starts, places, side="right")  # spans that begin at or before the place
        excess = np.maximum(0, stops[before - 1] - places) if len(stops) else 0  # of the last of them
        return np.asarray(totals[before] - np.where(before > 0, excess, 0), np.int64)

    return covered_before(ends) - covered_before(begins)


def _confirmed(text: str, matches: list[list[int]], index: Index) -> Iterator[Hit]:
    """Yield the matches of one text that are no hash collisions: their tokens are those of the example."""
    data, starts = words.encode_with_token_starts(text)
    for _, start, size, entry, is_proof in matches:
        if not is_proof and size < len(starts) - 1:  # the text continues after the example
            continue
        example, _, entry_size = index.entries[entry].tolist()
        # Hashes of n-grams of different sizes can collide too: compare the sizes first, which is cheaper.
        if size == entry_size and index.has_tokens(entry, data[starts[start] : starts[start + size]]):
            set_name, example_id, _ = index.examples[example]
            yield Hit(set_name, example_id, start, size)
