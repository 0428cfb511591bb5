"""Measuring and filtering on the engine: the same corpus as in threads, for any number of workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import tables
from tasks.curation import filter_stage, filtering, shards, text_files
from tasks.curation.filtering import Language
from tasks.curation.filters import blocklist, perplexity
from tasks.curation.shards import CorpusFiles, FilteredPart
from tasks.curation.signals import store
from tasks.engine.local_engine import LocalEngine
from tests.curation.test_curation import PARAMS, TEXTS, ingest, split

LANGUAGES = {code: Language.model_validate(body) for code, body in PARAMS["languages"].items()}
PART_BYTES = 400


def ingest_shards(data: Path) -> Path:
    ingest(data, {f"{name} {i}": text for i in range(3) for name, (text, _) in TEXTS.items()})
    split(data / "documents", 3)
    return data / "documents"


def contents(parts: Any, scratch: Path) -> dict[str, Any]:
    """All that a corpus holds after the filters."""
    files = CorpusFiles(filtering.params_by_language(LANGUAGES, PARAMS["filters"]), scratch)
    corpus = files.corpus(text_files.write(scratch / shards.TEXTS_FILE, files.kept_texts(parts)))
    texts = (scratch / shards.TEXTS_FILE).read_bytes()
    signals = {name: values.tolist() for name, values in corpus.signals.columns()}
    reasons, values = corpus.reasons.take(np.arange(len(corpus.reasons))), corpus.values.astype(str).tolist()
    others = corpus.columns.to_pydict(), corpus.bounds, corpus.parts
    return {"texts": texts, "signals": signals, "reasons": reasons, "values": values, "others": others}


def test_the_texts_of_an_earlier_step_are_deleted(tmp_path: Path) -> None:
    documents, scratch = ingest_shards(tmp_path / "data"), tmp_path / "scratch"
    parts = filter_stage.filtered_parts(
        documents, LANGUAGES, PARAMS["filters"], PART_BYTES, tmp_path, 1, lambda _: None
    )
    files = CorpusFiles(filtering.params_by_language(LANGUAGES, PARAMS["filters"]), scratch)
    corpus = files.corpus(text_files.write(scratch / shards.TEXTS_FILE, files.kept_texts(parts)))
    _, *others = corpus.remaining()[1].to_pylist()
    corpus.reasons.drop(corpus.text_rows[:1], "spam")
    assert corpus.remaining()[1].to_pylist() == others
    assert list(scratch.glob("texts*")) == [corpus.texts_file]


def on_engine(documents: Path, run: Path, workers: int) -> Iterator[FilteredPart]:
    arguments = documents, LANGUAGES, PARAMS["filters"], PART_BYTES, run / "signals", lambda _: None
    with LocalEngine(run / "engine", workers) as engine:
        yield from filter_stage.filter_on(engine, *arguments)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_engine_filters_as_threads_do(tmp_path: Path, workers: int) -> None:
    documents = ingest_shards(tmp_path)
    arguments = documents, LANGUAGES, PARAMS["filters"], PART_BYTES, tmp_path, 1, lambda _: None
    expected = contents(filter_stage.filtered_parts(*arguments), tmp_path / "threads")
    assert contents(on_engine(documents, tmp_path / "run", workers), tmp_path / "scratch") == expected
    assert expected["reasons"].count("gopher_quality.too_few_words") == 3


def test_other_bounds_measure_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = ingest_shards(tmp_path)
    first = list[FilteredPart](on_engine(documents, tmp_path / "run", 0))
    monkeypatch.setattr(store, "measure", None)
    monkeypatch.setitem(PARAMS, "filters", ["language"])
    second = list[FilteredPart](on_engine(documents, tmp_path / "run", 0))
    assert {path.suffix for path in (tmp_path / "run" / "signals").rglob("*") if path.is_file()} == {".parquet"}
    assert [part.signals.num_words.tolist() for part in first] == [part.signals.num_words.tolist() for part in second]


def test_a_changed_file_of_a_param_changes_the_input(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_bytes(b"first")
    params = {"en": {"perplexity": perplexity.Params(file=file), "blocklist": blocklist.Params(word_files=(file,))}}
    before = filter_stage._file_digests(params)
    file.write_bytes(b"second")
    assert list(before) == [str(file)]
    assert filter_stage._file_digests(params) != before


def test_the_rows_of_shards_are_those_of_the_table(tmp_path: Path) -> None:
    documents = ingest_shards(tmp_path)
    shards_of = tables.manifest(documents)["shards"]
    rows = [table for shard in shards_of for table in tables.shard_batches(documents, shard, PART_BYTES)]
    assert rows == list(tables.batches(documents, PART_BYTES))
