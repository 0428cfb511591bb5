"""The n-grams of all held-out examples, which training text may not contain.

As in GPT-3 (Brown et al. 2020, appendix C), a text that shares 13 consecutive words with an example is contaminated. In
scripts without spaces, n-grams consist of characters. Passages that many texts share are boilerplate and prove nothing
(boilerplate.py); leaks.py finds the texts that share anything else.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import BoolArray, Int64Array
from tasks.curation.text import ngrams, words

MIN_OCCURRENCES = 3  # in the smallest sets: a passage that fewer texts share is not boilerplate


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
        10,
        ge=1,
        description="An n-gram in more training texts, or in more examples, than this is boilerplate, such as a "
        "license, a footer or the template of a prompt; it does not count.",
    )
    max_share: float = Field(
        0.03,
        gt=0,
        le=1,
        description="In small sets, an n-gram is boilerplate already if it is in more than 3 training texts that are "
        "more than this share of all training texts.",
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
    min_remaining: float = Field(
        0.5,
        ge=0,
        le=1,
        description="With `contaminated: cut`: a document of which less than this share of characters would remain is "
        "dropped as a whole.",
    )

    def limit(self, num_texts: int, share: float) -> int:
        """Return how many of `num_texts` texts may share an n-gram that is not boilerplate."""
        return min(self.max_occurrences, max(MIN_OCCURRENCES, int(num_texts * share)))


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


@dataclass(frozen=True)
class Index:
    """All n-grams of all examples.

    entries: int64[n, 3] of (example, first token, number of tokens); num_examples: int64[n], how many examples have
    the n-gram; is_whole: bool[n], whether it is an example from end to end.
    """

    params: Params
    sets: tuple[EvaluationSet, ...]
    lookup: ngrams.NgramTable
    entries: Int64Array
    num_examples: Int64Array
    is_whole: BoolArray

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

    def has_tokens(self, entry: int, ngram: bytes) -> bool:
        """Whether an n-gram of a text has the tokens of an entry: equal hashes prove little. Equal bytes are fast."""
        example, start, size = self.entries[entry].tolist()
        data, starts = self.token_starts(example)
        other = data[starts[start] : starts[start + size]]
        return ngram == other or words.list_tokens(ngram) == words.list_tokens(other)

    def passage(self, example: int, start: int, end: int) -> str:
        """Return the text of tokens `start` to `end` (not included) of an example."""
        text = self.examples[example][2]
        tokens = list(words.token_spans(text))[start:end]
        return text[tokens[0][1] : tokens[-1][2]]


def build_index(sets: Sequence[EvaluationSet], params: Params) -> Index:
    """Build the index of evaluation sets. The first example that has an n-gram represents all that share it."""
    texts = pa.chunked_array([each.texts.cast(pa.large_string()) for each in sets], pa.large_string())
    # places: (example, first token, number of tokens, whether the n-gram is the whole example) of each n-gram.
    hashes, places = ngrams.list_ngrams(texts, params.words, params.characters)
    distinct, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    # Each pair of an n-gram and an example as one number, so that np.unique counts an example once per n-gram.
    pairs = np.unique(group * len(texts) + places[:, 0])
    num_examples = np.bincount(pairs // max(len(texts), 1), minlength=len(distinct))
    is_whole = np.zeros(len(distinct), np.bool_)
    is_whole[group[places[:, 3] > 0]] = True
    return Index(params, tuple(sets), ngrams.build_table(distinct), places[first, :3], num_examples, is_whole)
