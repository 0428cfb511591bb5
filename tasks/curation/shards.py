"""Documents measured and judged shard by shard; of what is kept, the text goes on to disk, of all, the signals stay."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.curation import filtering
from tasks.curation.arrays import ObjectArray
from tasks.curation.corpus import COLUMNS, Corpus
from tasks.curation.filtering import KEPT, Decision, Language, ParamsByLanguage
from tasks.curation.signals.signals import Signals, concatenate
from tasks.curation.signals.store import Store, WordLists
from tasks.curation.text import characters
from tasks.curation.threads import ProgressCallback, ignore_progress, map_in_threads


def word_lists(languages: Mapping[str, Language]) -> WordLists:
    """The stop words of each language, and the phrases of all of them."""
    profiles = {code: filtering.profile(language.profile) for code, language in languages.items()}
    phrases: dict[str, list[str]] = {}
    for profile in profiles.values():
        for kind, some in profile.phrases.items():
            phrases[kind] = sorted({*phrases.get(kind, ()), *some})
    return WordLists({code: profile.stop_words for code, profile in profiles.items()}, phrases)


class ShardFilter:
    """Measures and filter_params documents part by part, several parts at once, and remembers what came out."""

    def __init__(self, store: Store, filter_params: ParamsByLanguage, num_threads: int) -> None:
        characters.class_table()  # before there are threads, each of which would make its own
        self._store, self._filter_params, self._num_threads = store, filter_params, num_threads
        self._small: list[pa.Table] = []
        self._signals: list[Signals] = []
        self._decisions: list[Decision] = []

    @property
    def num_documents(self) -> int:
        """How many documents have been judged."""
        return sum(map(len, self._signals))

    def kept_texts(
        self, parts: Iterable[pa.Table], on_progress: ProgressCallback = ignore_progress
    ) -> Iterator[pa.Array]:
        """Judge part after part; the texts of what is kept of each, edited where a filter edits. Tells documents."""
        for small, signals, decision, texts in map_in_threads(self._judged, parts, self._num_threads):
            self._small.append(small)
            self._signals.append(signals)
            self._decisions.append(decision)
            on_progress(len(signals))
            yield texts

    def _judged(self, part: pa.Table) -> tuple[pa.Table, Signals, Decision, pa.Array]:
        texts, metadata = part["text"].combine_chunks(), part["metadata"].combine_chunks()
        signals = self._store.measure(texts)
        decision = filtering.decide(signals, self._filter_params, texts, metadata)
        kept = np.asarray(decision.reasons == KEPT, np.bool_)
        owners = filtering.filter_languages(signals, self._filter_params)
        edited = filtering.edit_texts(texts.filter(pa.array(kept)), owners[kept], self._filter_params)
        return part.select(COLUMNS), signals, decision, edited

    def corpus(self, texts: pa.ChunkedArray, scratch: Path) -> Corpus:
        """All that was judged; `texts` are those that `kept_texts` gave."""
        signals = concatenate(self._signals)
        reasons: ObjectArray = np.concatenate([decision.reasons for decision in self._decisions])
        return Corpus(
            columns=pa.concat_tables(self._small),
            signals=signals,
            filter_params=self._filter_params,
            reasons=reasons,
            values=np.concatenate([decision.values for decision in self._decisions]),
            bounds=self._decisions[0].bounds,
            scratch=scratch,
            texts=texts,
            text_rows=np.flatnonzero(reasons == KEPT),
            evidence=np.full(len(reasons), None, object),
            original_rows=np.arange(len(reasons)),
        )
