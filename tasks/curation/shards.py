"""Measure and filter the documents part by part, several parts at once. Texts, signals and ids go to disk."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks import documents
from tasks.curation import filtering
from tasks.curation.corpus import COLUMNS, Corpus
from tasks.curation.filtering import KEPT, Bound, Decision, Language, ParamsByLanguage, PartCounts
from tasks.curation.outcomes import Outcomes
from tasks.curation.signals.column_files import ColumnFiles
from tasks.curation.signals.signals import NAMES, Signals
from tasks.curation.signals.store import Store, WordLists
from tasks.curation.text import characters
from tasks.curation.threads import map_in_threads

TEXTS_FILE, COLUMNS_FILE = "texts.arrow", "columns.arrow"
VALUE = "value"  # the column of deciding values beside those of the signals
COLUMN_SCHEMA = pa.schema([documents.SCHEMA.field(name) for name in COLUMNS])


def word_lists(languages: Mapping[str, Language]) -> WordLists:
    """Return the stop words of each language, and the phrases of all languages together."""
    profiles = {code: filtering.profile(language.profile) for code, language in languages.items()}
    phrases: dict[str, list[str]] = {}
    for profile in profiles.values():
        for kind, profile_phrases in profile.phrases.items():
            phrases[kind] = sorted({*phrases.get(kind, ()), *profile_phrases})
    return WordLists({code: profile.stop_words for code, profile in profiles.items()}, phrases)


@dataclass(frozen=True, slots=True)
class FilteredPart:
    """Some documents after the filters. columns: COLUMNS; texts: large_string, those of the kept ones after edits."""

    columns: pa.Table
    signals: Signals
    decision: Decision
    texts: pa.Array


def filter_part(part: pa.Table, store: Store, filter_params: ParamsByLanguage) -> FilteredPart:
    """Measure and filter some documents, given with the columns of data/documents."""
    texts, metadata = part["text"].combine_chunks(), part["metadata"].combine_chunks()
    signals = store.measure(texts)
    decision = filtering.decide(signals, filter_params, texts, metadata)
    kept = np.asarray(decision.reasons == KEPT, np.bool_)
    languages = filtering.filter_languages(signals.language, filter_params)
    edited = filtering.edit_texts(texts.filter(pa.array(kept)), languages[kept], filter_params)
    return FilteredPart(part.select(COLUMNS).cast(COLUMN_SCHEMA), signals, decision, edited)


def filter_in_threads(
    parts: Iterable[pa.Table], store: Store, filter_params: ParamsByLanguage, num_threads: int
) -> Iterator[FilteredPart]:
    """Filter one part after another, several at once; the results come in order."""
    characters.class_table()  # built here once: each thread that finds it missing would build its own
    return map_in_threads(lambda part: filter_part(part, store, filter_params), parts, num_threads)


class CorpusFiles:
    """Puts filtered parts together as files in `scratch`, and as a corpus that reads them."""

    def __init__(self, filter_params: ParamsByLanguage, scratch: Path) -> None:
        self._filter_params, self._scratch = filter_params, scratch
        self._columns = ColumnFiles(scratch / "signals")
        self._reasons, self._parts = Outcomes(), PartCounts()
        self._bounds: Sequence[Bound] = ()

    def kept_texts(self, parts: Iterable[FilteredPart]) -> Iterator[pa.Array]:
        """Write one part after another and yield the kept texts of each."""
        path = self._scratch / COLUMNS_FILE
        for earlier in [path, *self._scratch.glob("texts-*.arrow")]:
            earlier.unlink(missing_ok=True)  # a corpus that still uses the files of an earlier run keeps them
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, COLUMN_SCHEMA) as writer:
            for part in parts:
                writer.write_table(part.columns)
                self._columns.append({**dict(part.signals.columns()), VALUE: part.decision.values})
                self._reasons.append(part.decision.reasons)
                self._bounds = part.decision.bounds  # equal for all parts
                self._parts.update(part.decision.parts)
                yield part.texts

    def corpus(self, texts: pa.ChunkedArray) -> Corpus:
        """Return the corpus after all parts. texts: those that `kept_texts` yielded, in TEXTS_FILE. Call it once."""
        columns: dict[str, Any] = self._columns.read()
        return Corpus(
            columns=pa.ipc.open_file(pa.memory_map(str(self._scratch / COLUMNS_FILE))).read_all(),
            signals=Signals(**{name: columns[name] for name in NAMES}),
            filter_params=self._filter_params,
            reasons=self._reasons,
            values=columns[VALUE],
            bounds=self._bounds,
            parts=self._parts,
            scratch=self._scratch,
            texts=texts,
            texts_file=self._scratch / TEXTS_FILE,
            text_rows=np.flatnonzero(self._reasons.kept),
            original_rows=np.arange(len(self._reasons), dtype=np.int32),
        )
