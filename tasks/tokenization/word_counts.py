"""How often each word occurs in the train texts, counted one shard of documents per task of the engine.

Words are the matches of pre-tokenization, which merges do not cross: all that a tokenizer is trained from.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks import tables
from tasks.engine import settings
from tasks.engine.engine import Engine, check_part, complete
from tasks.files import sha256
from tasks.tokenization import bpe, merging, patterns, records, split_kernels
from tasks.tokenization.columns import string_buffers

WORDS = "words.arrow"
SCHEMA = pa.schema([("word", pa.large_binary()), ("count", pa.int64())])
MAX_PENDING = 1 << 20  # rows of tables that are summed at once
BATCH_TEXTS = 4096

CountWords = Callable[[pa.Array], pa.Table]
"""A function from texts to a table of SCHEMA."""


class WordCounts:
    """Sums tables of SCHEMA. num_texts: how many texts were counted."""

    def __init__(self) -> None:
        self.num_texts = 0
        self._sums, self._pending, self._num_pending = SCHEMA.empty_table(), list[pa.Table](), 0

    def add(self, table: pa.Table, num_texts: int) -> None:
        """Add the words of some texts."""
        self.num_texts += num_texts
        self._pending.append(table)
        self._num_pending += len(table)
        if self._num_pending > max(MAX_PENDING, len(self._sums)):
            self.table()

    def table(self) -> pa.Table:
        """Return each word once with its number of occurrences, in the order of the words."""
        rows = pa.concat_tables([self._sums, *self._pending])
        sums = rows.group_by("word").aggregate([("count", "sum")]).rename_columns(SCHEMA.names).sort_by("word")
        self._sums, self._pending, self._num_pending = sums.combine_chunks(), [], 0
        return self._sums

    def mapping(self) -> dict[str, int]:
        """Return word -> number of occurrences, in the order of the words."""
        words = (word.decode() for word in self.table()["word"].to_pylist())
        return dict(zip(words, self._sums["count"].to_pylist(), strict=True))


def count(data: Path, share: float, tokenizer: Path | None, run: Path) -> WordCounts:
    """Count the words of `records.train_texts(data, share)` on the engine of the settings.

    tokenizer: a saved one, whose words are counted as `merging.count_words` does; None for those of `bpe.PATTERN`. run:
    the folder for intermediate files.
    """
    folder = run / "words"
    with settings.make_engine(folder, 0) as engine:
        counts = count_on(engine, data / "curated", share, tokenizer)
    shutil.rmtree(folder, ignore_errors=True)
    count_words, messages = _counter(*_identity(tokenizer)), records.train_messages(data, share)
    while texts := list(itertools.islice(messages, BATCH_TEXTS)):
        counts.add(count_words(pa.array(texts, pa.large_string())), len(texts))
    return counts


def count_on(engine: Engine, source: Path, share: float, tokenizer: Path | None) -> WordCounts:
    """Count the words of the first `share` of the train documents of each shard of the table `source`.

    A shard that a run which was killed has counted is not repeated. Raises BadInput if a task has ended its worker in
    every attempt, because its words would be missing.
    """
    counts = WordCounts()
    if not source.is_dir():
        return counts
    folder, files = _identity(tokenizer)
    shared = {"folder": str(source.absolute()), "share": share, "tokenizer": folder, "files": list(files)}
    tasks = {f"{n:05d}": {**shared, "shard": shard} for n, shard in enumerate(tables.manifest(source)["shards"])}
    counted = engine.run("words", list(tasks), count_shard, tasks)
    complete(counted, "words would be missing", "Give the workers more memory, and run it again.")
    for key, part in counted.parts.items():
        check_part(counted, key)
        counts.add(pa.ipc.open_file(str(counted.path(key, WORDS))).read_all(), part.result["texts"])
    return counts


def count_shard(part: Path, task: Mapping[str, Any]) -> dict[str, int]:
    """Count the words of the train documents of one shard; write them as a table of SCHEMA."""
    count_words, counts = _counter(task["tokenizer"], tuple(task["files"])), WordCounts()
    for texts in _train_documents(Path(task["folder"]), task["shard"], task["share"]):
        counts.add(count_words(texts), len(texts))
    with pa.ipc.new_file(str(part / WORDS), SCHEMA) as writer:
        writer.write_table(counts.table())
    return {"texts": counts.num_texts}


def _train_documents(folder: Path, shard: Mapping[str, Any], share: float) -> Iterator[pa.Array]:
    """Yield the texts of the first `share` of the train documents of a shard, in batches."""

    def batches(*columns: str) -> Iterator[pa.Table]:
        names = records.with_split(columns)
        parts = tables.shard_batches(folder, shard, records.BATCH_BYTES, names)
        return (table for _, table in records.by_split(parts, ("train",)))

    rest = records.share_of(sum(len(table) for table in batches()), share)
    for table in batches("text"):
        texts = table["text"].slice(0, rest).combine_chunks()
        rest -= len(texts)
        yield texts


def _identity(tokenizer: Path | None) -> tuple[str | None, tuple[str, ...]]:
    """Return the folder of a tokenizer and the digests of its files."""
    if tokenizer is None:
        return None, ()
    return str(tokenizer.absolute()), tuple(sha256(path) for path in sorted(tokenizer.iterdir()) if path.is_file())


@lru_cache(1)
def _counter(folder: str | None, _files: tuple[str, ...]) -> CountWords:
    """Return the function that counts words; a worker keeps it from one task to the next."""
    if folder is not None:
        backend = bpe.load(folder).backend_tokenizer
        return lambda texts: _as_table(merging.count_words(backend, texts.to_pylist()))
    rules = patterns.RULES[bpe.PATTERN]
    table, numbers = rules.class_table(), rules.numeric()

    def count_words(texts: pa.Array) -> pa.Table:
        data, offsets = string_buffers(texts)
        ends = np.empty(int(offsets[-1] - offsets[0]) + 1, np.int64)
        ends[0] = offsets[0]
        num_words = split_kernels.word_ends(data, offsets, table, numbers, ends[1:])
        bounds = pa.py_buffer(ends[: num_words + 1])
        words = pa.LargeBinaryArray.from_buffers(pa.large_binary(), num_words, [None, bounds, pa.py_buffer(data)])
        counts = pc.value_counts(words)
        return pa.table([counts.field("values"), counts.field("counts")], SCHEMA)

    return count_words


def _as_table(counts: Mapping[str, int]) -> pa.Table:
    words = pa.array([word.encode() for word in counts], pa.large_binary())
    return pa.table([words, pa.array(list(counts.values()), pa.int64())], SCHEMA)
