"""Keep what evaluation asks out of training: n-grams of evaluation examples, looked for in every text.

After Brown et al. 2020 (GPT-3, appendix C): a text that shares a run of 13 words with an example gives it away; runs
that many examples share are formulas and prove nothing. In scripts without spaces a run is counted in characters.
Runs are found by rolling hashes and then compared word by word, so that no hash collision drops a text.
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

Place: TypeAlias = tuple[int, int, int, int]


class Params(BaseModel, frozen=True, extra="forbid"):
    """A run of `words` tokens counts where at least half are words; one of `characters` where more are characters."""

    words: int = Field(13, ge=2, le=1000)
    characters: int = Field(24, ge=2, le=1000)
    max_occurrences: int = Field(10, ge=1)  # runs that more examples or records share are formulas
    margin: int = Field(200, ge=0)  # characters cut away on either side of a run
    max_cuts: int = Field(10, ge=1)  # a text with more runs than this is not worth cutting


@dataclass(frozen=True, slots=True)
class Examples:
    """One evaluation set: its name, and an id and a text for each example."""

    name: str
    ids: tuple[str, ...]
    texts: pa.Array

    def digest(self) -> str:
        """Names these very examples, in any order."""
        pairs = sorted(f"{name}\0{text}" for name, text in zip(self.ids, self.texts.to_pylist(), strict=True))
        return hashlib.sha256("\0".join(pairs).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Hit:
    """A text that gives an example away: which row, which example of which set, and where (in tokens)."""

    row: int
    set: str
    example: str
    start: int
    size: int
    entry: int


@dataclass(frozen=True)
class Index:
    """All runs of all examples; `places[entry]` is (example, first token, number of tokens)."""

    params: Params
    sets: tuple[Examples, ...]
    lookup: ngrams.Lookup
    places: Int64Array

    def describe(self) -> dict[str, dict[str, Any]]:
        """What training texts were compared with: the size and the digest of each set."""
        return {one.name: {"examples": len(one.ids), "digest": one.digest()} for one in self.sets}

    @functools.cached_property
    def owners(self) -> tuple[tuple[str, str, str], ...]:
        """(set, id, text) of each example."""
        return tuple(
            (one.name, name, text)
            for one in self.sets
            for name, text in zip(one.ids, one.texts.to_pylist(), strict=True)
        )

    @functools.cached_property
    def starts(self) -> "functools._lru_cache_wrapper[tuple[bytes, list[int]]]":
        """The bytes of an example and where its tokens start, remembered for the last few."""
        return functools.lru_cache(4096)(lambda example: words.starts(self.owners[example][2]))

    def run(self, example: int, start: int, size: int) -> bytes:
        """Some neighboring tokens of an example as they stand there, with what separates them from the next."""
        data, starts = self.starts(example)
        return data[starts[start] : starts[start + size]]

    def quote(self, entry: int) -> str:
        """The run of an entry as its example has it."""
        example, start, size = self.places[entry].tolist()
        text: str = self.owners[example][2]
        places = list(words.located(text))[start : start + size]
        return str(text[places[0][1] : places[-1][2]])


def index(sets: Sequence[Examples], params: Params) -> Index:
    """The index of some evaluation sets; the first example in order stands for a run that several share."""
    texts = pa.chunked_array([one.texts.cast(pa.large_string()) for one in sets], pa.large_string())
    hashes, places = ngrams.runs(texts, params.words, params.characters)
    distinct, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    pairs = np.unique(which * len(texts) + places[:, 0])  # a run and an example that has it
    spread = np.bincount(pairs // max(len(texts), 1), minlength=len(distinct))
    whole = np.zeros(len(distinct), np.bool_)
    whole[which[places[:, 3] > 0]] = True
    kept = first[(spread <= params.max_occurrences) | whole]
    return Index(params, tuple(sets), ngrams.lookup(hashes[kept]), places[kept, :3])


def scan(
    texts: Texts,
    index: Index,
    asked: BoolArray | None = None,
    threads: int = 1,
    on_progress: ProgressCallback = ignore_progress,
) -> Iterator[Hit]:
    """The first proven hit of each text (of those `asked` about) that has one, by row. Tells bytes."""

    def first_hits(part: tuple[int, Texts]) -> tuple[list[Hit], int]:
        hits = _hits_of(*part, index, asked)
        proven = (_proven(texts[row].as_py(), some, index) for row, some in groupby(hits, key=itemgetter(0)))
        first = [hit for found in proven if (hit := next(found, None)) is not None]
        return first, int(byte_lengths(part[1]).sum())

    folding.table()
    for some, size in map_in_threads(first_hits, chunks(texts), threads):
        on_progress(size)
        yield from some


def scan_records(texts: Texts, index: Index) -> list[Hit]:
    """As `scan`, for the many short texts of conversations, which may share a long instruction and differ in a word.

    A run proves something if at least half of its parts (half as long as the run) are in no more than
    `max_occurrences` of the texts, or if text and example are equal from end to end.
    """
    proven: list[Hit] = []
    for row, hits in groupby(_hits(texts, index), key=itemgetter(0)):
        proven.extend(_proven(texts[row].as_py(), hits, index))
    telling = _telling(sorted({hit.entry for hit in proven}), texts, index)
    clear = (hit for hit in proven if hit.entry in telling or _is_whole(hit, texts, index))
    return [next(group) for _, group in groupby(clear, key=lambda hit: hit.row)]


def cut(text: str, index: Index) -> str | None:
    """`text` without its runs and a margin around each, the rest joined by line breaks; None where too much is gone."""
    located = list(words.located(text))
    gone = np.zeros(len(text), np.bool_)
    cuts, end = 0, -1
    hits = sorted(_hits(pa.array([text], pa.large_string()), index), key=itemgetter(1))
    for hit in _proven(text, iter(hits), index):
        cuts += hit.start > end
        end = max(end, hit.start + hit.size)
        low, high = located[hit.start][1], located[hit.start + hit.size - 1][2]
        gone[max(0, low - index.params.margin) : high + index.params.margin] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[True], gone, [True]])))
    parts = [text[start:end].strip() for start, end in edges.reshape(-1, 2)]
    rest = "\n".join(part for part in parts if part)
    return rest if rest and cuts <= index.params.max_cuts else None


def _hits(texts: Texts, index: Index) -> Iterator[Place]:
    """(row, first token, number of tokens, entry) of each run whose hash is in the index, in order."""
    for start, some in chunks(texts):
        yield from _hits_of(start, some, index)


def _hits_of(start: int, texts: Texts, index: Index, asked: BoolArray | None = None) -> Iterator[Place]:
    """Those of some texts, of which the first is row `start`."""
    for first, data, offsets in words.pieces(texts):
        found = ngrams.find(data, offsets, index.params.words, index.params.characters, index.lookup)
        found[:, 0] += start + first
        yield from (found if asked is None else found[asked[found[:, 0]]]).tolist()


def _proven(text: str, hits: Iterator[Place], index: Index) -> Iterator[Hit]:
    data, starts = words.starts(text)
    for row, at, size, entry in hits:
        example, start, length = index.places[entry].tolist()
        if size == length and _same(data[starts[at] : starts[at + size]], index.run(example, start, size)):
            name, example_id, _ = index.owners[example]
            yield Hit(row, name, example_id, at, size, entry)


def _same(run: bytes, other: bytes) -> bool:
    """Whether two runs have the same tokens; the same bytes have."""
    return run == other or words.all_tokens(run) == words.all_tokens(other)


def _telling(entries: list[int], texts: Texts, index: Index) -> set[int]:
    """The entries whose runs are no formulas of these texts."""
    found: set[int] = set()
    for size, same in groupby(sorted(entries, key=lambda e: int(index.places[e, 2])), key=lambda e: index.places[e, 2]):
        group, part = list(same), max(2, int(size) // 2)
        quotes = pa.array([index.quote(entry) for entry in group], pa.large_string())
        hashes, places = ngrams.runs(quotes, part, part)
        hashes, owners = hashes[places[:, 3] == 0], places[places[:, 3] == 0, 0]
        distinct, which = np.unique(hashes, return_inverse=True)
        known, rows_of = ngrams.lookup(distinct), np.zeros(len(distinct), np.int64)
        for _, data, offsets in words.pieces(texts):
            hits = ngrams.find(data, offsets, part, part, known)
            rows_of += np.bincount(np.unique(hits[:, [0, 3]], axis=0)[:, 1], minlength=len(distinct))
        rare = rows_of[which] <= index.params.max_occurrences
        share = np.bincount(owners, rare, len(group)) / np.maximum(np.bincount(owners, minlength=len(group)), 1)
        found.update(entry for entry, of in zip(group, share, strict=True) if of >= 0.5)
    return found


def _is_whole(hit: Hit, texts: Texts, index: Index) -> bool:
    example = int(index.places[hit.entry][0])
    return list(words.tokens(texts[hit.row].as_py())) == list(words.tokens(index.owners[example][2]))
