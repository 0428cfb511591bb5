"""Measure and filter the documents part by part, several parts at once. Texts, signals and ids go to disk."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks import documents
from tasks.curation import filtering
from tasks.curation.arrays import ObjectArray
from tasks.curation.corpus import COLUMNS, Corpus
from tasks.curation.filtering import KEPT, Decision, Language, ParamsByLanguage
from tasks.curation.signals.signal_files import SignalFiles
from tasks.curation.signals.signals import Signals
from tasks.curation.signals.store import Store, WordLists
from tasks.curation.text import characters
from tasks.curation.threads import ProgressCallback, ignore_progress, map_in_threads

TEXTS_FILE, COLUMNS_FILE = "texts.arrow", "columns.arrow"


def word_lists(languages: Mapping[str, Language]) -> WordLists:
    """Return the stop words of each language, and the phrases of all languages together."""
    profiles = {code: filtering.profile(language.profile) for code, language in languages.items()}
    phrases: dict[str, list[str]] = {}
    for profile in profiles.values():
        for kind, profile_phrases in profile.phrases.items():
            phrases[kind] = sorted({*phrases.get(kind, ()), *profile_phrases})
    return WordLists({code: profile.stop_words for code, profile in profiles.items()}, phrases)


class ShardFilter:
    """Measures and filters documents part by part, several parts at once. Its results are files in `scratch`."""

    def __init__(self, store: Store, filter_params: ParamsByLanguage, num_threads: int, scratch: Path) -> None:
        characters.class_table()  # built here once: each thread that finds it missing would build its own
        self._store, self._filter_params, self._num_threads = store, filter_params, num_threads
        self._scratch, self._signals = scratch, SignalFiles(scratch / "signals")
        self._decisions: list[Decision] = []

    def kept_texts(
        self, parts: Iterable[pa.Table], on_progress: ProgressCallback = ignore_progress
    ) -> Iterator[pa.Array]:
        """Filter one part after another and yield the kept texts of each, after the edits of filters.

        parts: tables with the columns of data/documents. on_progress receives numbers of documents.
        """
        path = self._scratch / COLUMNS_FILE
        for earlier in [path, *self._scratch.glob("texts-*.arrow")]:
            earlier.unlink(missing_ok=True)  # a corpus that still uses the files of an earlier run keeps them
        schema = pa.schema([documents.SCHEMA.field(name) for name in COLUMNS])
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for columns, signals, decision, texts in map_in_threads(self._filter_part, parts, self._num_threads):
                writer.write_table(columns.cast(schema))
                self._signals.append(signals)
                self._decisions.append(decision)
                on_progress(len(signals))
                yield texts

    def _filter_part(self, part: pa.Table) -> tuple[pa.Table, Signals, Decision, pa.Array]:
        texts, metadata = part["text"].combine_chunks(), part["metadata"].combine_chunks()
        signals = self._store.measure(texts)
        decision = filtering.decide(signals, self._filter_params, texts, metadata)
        kept = np.asarray(decision.reasons == KEPT, np.bool_)
        languages = filtering.filter_languages(signals, self._filter_params)
        edited = filtering.edit_texts(texts.filter(pa.array(kept)), languages[kept], self._filter_params)
        return part.select(COLUMNS), signals, decision, edited

    def corpus(self, texts: pa.ChunkedArray) -> Corpus:
        """Return the corpus after all parts. texts: those that `kept_texts` yielded, in TEXTS_FILE. Call it once."""
        reasons: ObjectArray = np.concatenate([decision.reasons for decision in self._decisions])
        values = np.concatenate([decision.values for decision in self._decisions])
        bounds = self._decisions[0].bounds  # equal for all parts
        parts = sum((decision.parts for decision in self._decisions), Counter[Any]())
        self._decisions.clear()  # what they hold is now in memory twice
        return Corpus(
            columns=pa.ipc.open_file(pa.memory_map(str(self._scratch / COLUMNS_FILE))).read_all(),
            signals=self._signals.read(),
            filter_params=self._filter_params,
            reasons=reasons,
            values=values,
            bounds=bounds,
            parts=parts,
            scratch=self._scratch,
            texts=texts,
            texts_file=self._scratch / TEXTS_FILE,
            text_rows=np.flatnonzero(reasons == KEPT),
            evidence=np.full(len(reasons), None, object),
            original_rows=np.arange(len(reasons)),
        )
