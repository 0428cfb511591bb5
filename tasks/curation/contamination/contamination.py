"""Remove text that evaluation will ask about from training: every text is searched for n-grams of evaluation examples.

As in GPT-3 (Brown et al. 2020, appendix C), a text that shares 13 consecutive words with an example is contaminated.
n-grams that many examples share are formulas and prove nothing. In scripts without spaces, n-grams consist of
characters. They are found by rolling hashes and then compared token by token, so that no hash collision drops a text.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import BoolArray, Int64Array
from tasks.curation.text import folding, ngrams, words
from tasks.curation.text.words import Texts, byte_lengths, chunks
from tasks.curation.threads import ProgressCallback, ignore_progress, map_in_threads

Match: TypeAlias = tuple[int, int, int, int]
"""(row, first token, number of tokens, entry of the index) of an n-gram with the hash of an entry."""


class Params(BaseModel, frozen=True, extra="forbid"):
    """An n-gram counts words if at least half of its tokens are words, and characters otherwise."""

    words: int = Field(
        13, ge=2, le=1000, description="Number of consecutive words that a text must share with an example."
    )
    characters: int = Field(
        24,
        ge=2,
        le=1000,
        description="Number of consecutive characters, in scripts without spaces, that a text must share with an "
        "example.",
    )
    max_occurrences: int = Field(
        10, ge=1, description="n-grams that more examples than this share are formulas; they do not count."
    )
    margin: int = Field(
        200,
        ge=0,
        description="With `contaminated: cut`: number of characters that are removed on either side of an n-gram.",
    )
    max_cuts: int = Field(
        10,
        ge=1,
        description="With `contaminated: cut`: a document with more shared passages than this is dropped as a whole.",
    )


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """Examples of one evaluation set: its name, an id per example, and their texts (an array of large_string)."""

    name: str
    ids: tuple[str, ...]
    texts: pa.Array

    def digest(self) -> str:
        """Return a digest of the ids and texts. It does not depend on their order."""
        pairs = sorted(f"{name}\0{text}" for name, text in zip(self.ids, self.texts.to_pylist(), strict=True))
        return hashlib.sha256("\0".join(pairs).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Hit:
    """A text that shares an n-gram with an example. `start` and `size` are in tokens of the text."""

    row: int
    set_name: str
    example_id: str
    start: int
    size: int
    entry: int


@dataclass(frozen=True)
class Index:
    """All n-grams of all examples. `entries`: int64[n, 3] of (example, first token, number of tokens)."""

    params: Params
    sets: tuple[EvaluationSet, ...]
    lookup: ngrams.NgramTable
    entries: Int64Array

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the size and the digest of each set, for the report."""
        return {each.name: {"examples": len(each.ids), "digest": each.digest()} for each in self.sets}

    @functools.cached_property
    def examples(self) -> tuple[tuple[str, str, str], ...]:
        """(name of the set, id, text) of each example."""
        return tuple(
            (each.name, example_id, text)
            for each in self.sets
            for example_id, text in zip(each.ids, each.texts.to_pylist(), strict=True)
        )

    @functools.cached_property
    def token_starts(self) -> "functools._lru_cache_wrapper[tuple[bytes, list[int]]]":
        """A function from an example to its bytes and the starts of its tokens, with a cache of the latest examples."""
        return functools.lru_cache(4096)(lambda example: words.encode_with_token_starts(self.examples[example][2]))

    def ngram_bytes(self, entry: int) -> bytes:
        """Return the bytes of an n-gram in its example, up to the start of the next token."""
        example, start, size = self.entries[entry].tolist()
        data, starts = self.token_starts(example)
        return data[starts[start] : starts[start + size]]

    def ngram_text(self, entry: int) -> str:
        """Return the text of an n-gram in its example, from its first to its last character."""
        example, start, size = self.entries[entry].tolist()
        text: str = self.examples[example][2]
        tokens = list(words.token_spans(text))[start : start + size]
        return str(text[tokens[0][1] : tokens[-1][2]])


def build_index(sets: Sequence[EvaluationSet], params: Params) -> Index:
    """Build the index of evaluation sets. The first example that has an n-gram represents all that share it."""
    texts = pa.chunked_array([each.texts.cast(pa.large_string()) for each in sets], pa.large_string())
    # places: (example, first token, number of tokens, whether the n-gram is the whole example) of each n-gram.
    hashes, places = ngrams.list_ngrams(texts, params.words, params.characters)
    distinct, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    # Each pair of an n-gram and an example as one number, so that np.unique counts an example once per n-gram.
    pairs = np.unique(group * len(texts) + places[:, 0])
    num_examples = np.bincount(pairs // max(len(texts), 1), minlength=len(distinct))
    # Examples as a whole are never formulas: a text that equals one contains it, however many are equal.
    is_whole_example = np.zeros(len(distinct), np.bool_)
    is_whole_example[group[places[:, 3] > 0]] = True
    kept = first[(num_examples <= params.max_occurrences) | is_whole_example]
    return Index(params, tuple(sets), ngrams.build_table(hashes[kept]), places[kept, :3])


def scan(
    texts: Texts,
    index: Index,
    selected: BoolArray | None = None,
    threads: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> Iterator[Hit]:
    """Yield the first hit of each contaminated text, ordered by row.

    selected: bool[n], which texts to scan, None for all. `on_progress` receives the bytes of text that were read.
    """

    def first_hits(part: tuple[int, Texts]) -> tuple[list[Hit], int]:
        start, chunk = part
        matches = _matches_of_chunk(start, chunk, index, selected)
        hits_by_row = (_confirmed(texts[row].as_py(), group, index) for row, group in groupby(matches, itemgetter(0)))
        hits = [hit for row_hits in hits_by_row if (hit := next(row_hits, None)) is not None]
        return hits, int(byte_lengths(chunk).sum())

    folding.fold_table()  # built here once: each thread that finds it missing would build its own
    for hits, size in map_in_threads(first_hits, chunks(texts), threads):
        on_progress(size)
        yield from hits


def scan_records(texts: Texts, index: Index) -> list[Hit]:
    """Return the first hit of each contaminated text, for the many short texts of conversations and preferences.

    These may share a long instruction and differ in one word, so that a shared n-gram alone proves little. It counts if
    at least half of its parts (n-grams of half its size) are in no more than `max_occurrences` of the texts, or if text
    and example are equal from end to end.
    """
    hits: list[Hit] = []
    for row, matches in groupby(_matches(texts, index), key=itemgetter(0)):
        hits.extend(_confirmed(texts[row].as_py(), matches, index))
    distinctive = _distinctive_entries(sorted({hit.entry for hit in hits}), texts, index)
    proven = (hit for hit in hits if hit.entry in distinctive or _equals_example(hit, texts, index))
    return [next(group) for _, group in groupby(proven, key=lambda hit: hit.row)]


def remove_ngrams(text: str, index: Index) -> str | None:
    """Return the text without its shared n-grams and a margin around each; the rest is joined by line breaks.

    Returns None if nothing is left, or if there are more than `max_cuts` separate passages to remove.
    """
    tokens = list(words.token_spans(text))
    is_removed = np.zeros(len(text), np.bool_)
    num_cuts, end = 0, -1
    # By first token, so that overlapping n-grams follow each other.
    matches = sorted(_matches(pa.array([text], pa.large_string()), index), key=itemgetter(1))
    for hit in _confirmed(text, iter(matches), index):
        num_cuts += hit.start > end  # overlapping n-grams are one cut
        end = max(end, hit.start + hit.size)
        low, high = tokens[hit.start][1], tokens[hit.start + hit.size - 1][2]
        is_removed[max(0, low - index.params.margin) : high + index.params.margin] = True
    # Pairs of (start, end) of what remains: where is_removed changes, with removed text assumed at both ends.
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_removed, [True]])))
    parts = [text[start:end].strip() for start, end in edges.reshape(-1, 2)]
    remaining = "\n".join(part for part in parts if part)
    return remaining if remaining and num_cuts <= index.params.max_cuts else None


def _matches(texts: Texts, index: Index) -> Iterator[Match]:
    """Yield each n-gram of the texts whose hash is in the index, in order."""
    for start, chunk in chunks(texts):
        yield from _matches_of_chunk(start, chunk, index)


def _matches_of_chunk(start: int, texts: Texts, index: Index, selected: BoolArray | None = None) -> Iterator[Match]:
    """Yield the matches of a chunk whose first text is row `start`."""
    for first, data, offsets in words.padded_buffers(texts):
        matches = ngrams.find_ngrams(data, offsets, index.params.words, index.params.characters, index.lookup)
        # Rows count from the start of the buffer, of the chunk, and then of all texts.
        matches[:, 0] += start + first
        yield from (matches if selected is None else matches[selected[matches[:, 0]]]).tolist()


def _confirmed(text: str, matches: Iterator[Match], index: Index) -> Iterator[Hit]:
    """Yield the matches of one text that are no hash collisions: their tokens are those of the example."""
    data, starts = words.encode_with_token_starts(text)
    for row, start, size, entry in matches:
        example, _, entry_size = index.entries[entry].tolist()
        # Hashes of n-grams of different sizes can collide too: compare the sizes first, which is cheaper.
        if size == entry_size and _have_equal_tokens(data[starts[start] : starts[start + size]], index, entry):
            set_name, example_id, _ = index.examples[example]
            yield Hit(row, set_name, example_id, start, size, entry)


def _have_equal_tokens(ngram: bytes, index: Index, entry: int) -> bool:
    """Whether an n-gram of a text has the tokens of an entry. Equal bytes are the fast case."""
    other = index.ngram_bytes(entry)
    return ngram == other or words.list_tokens(ngram) == words.list_tokens(other)


def _distinctive_entries(entries: list[int], texts: Texts, index: Index) -> set[int]:
    """Return the entries of which at least half of the parts are rare among the texts (see `scan_records`)."""
    distinctive: set[int] = set()
    # Entries of the same size have parts of the same size, which are counted in one pass over the texts.
    for size, group in groupby(sorted(entries, key=lambda e: int(index.entries[e, 2])), lambda e: index.entries[e, 2]):
        group_entries, part_size = list(group), max(2, int(size) // 2)
        ngram_texts = pa.array([index.ngram_text(entry) for entry in group_entries], pa.large_string())
        hashes, places = ngrams.list_ngrams(ngram_texts, part_size, part_size)
        hashes, owners = hashes[places[:, 3] == 0], places[places[:, 3] == 0, 0]  # without the n-gram as a whole
        distinct, part_of = np.unique(hashes, return_inverse=True)
        parts, num_texts = ngrams.build_table(distinct), np.zeros(len(distinct), np.int64)
        for _, data, offsets in words.padded_buffers(texts):
            matches = ngrams.find_ngrams(data, offsets, part_size, part_size, parts)
            # A text counts once for each part, however often it contains the part.
            num_texts += np.bincount(np.unique(matches[:, [0, 3]], axis=0)[:, 1], minlength=len(distinct))
        is_rare = num_texts[part_of] <= index.params.max_occurrences
        num_parts = np.bincount(owners, minlength=len(group_entries))
        rare_share = np.bincount(owners, is_rare, len(group_entries)) / np.maximum(num_parts, 1)
        distinctive.update(entry for entry, share in zip(group_entries, rare_share, strict=True) if share >= 0.5)
    return distinctive


def _equals_example(hit: Hit, texts: Texts, index: Index) -> bool:
    """Whether a text has the same tokens as the example, from end to end."""
    example = int(index.entries[hit.entry][0])
    return list(words.tokens(texts[hit.row].as_py())) == list(words.tokens(index.examples[example][2]))
