"""Store signals on disk by the hash of their text, so that new thresholds need no new measurement.

Nothing depends on this folder: it may be deleted at any time, and it is ignored if it cannot be read.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from tasks.curation.arrays import UInt64Array
from tasks.curation.signals import signals
from tasks.curation.signals.signals import Signals, measure, string_buffers
from tasks.files import SCHEMA_VERSION, SCHEMAS, version_problem

FOLDER = Path(".run/signals")


@dataclass(frozen=True, slots=True)
class WordLists:
    """The lists that signals depend on. stop_words: language -> words; phrases: kind -> phrases."""

    stop_words: Mapping[str, Sequence[str]]
    phrases: Mapping[str, Sequence[str]]

    def key(self) -> str:
        """Return a hash of these lists and of the version of the signals."""
        body = json.dumps([signals.VERSION, self.stop_words, self.phrases], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]


class Store:
    """The signals that were measured with the same lists."""

    def __init__(self, lists: WordLists, folder: Path = FOLDER) -> None:
        self.lists, self._folder = lists, folder / lists.key()
        self._table, keys = self._read()
        order = np.argsort(keys[:, 0], kind="stable")
        self._sorted_keys, self._table_rows = keys[order], order

    def measure(self, texts: pa.Array) -> Signals:
        """Return the signals of every text in a large_string array, and measure only the texts that are not stored."""
        keys = text_hashes(texts)
        # Search by the lower half of the hash, then compare both halves.
        index = np.minimum(np.searchsorted(self._sorted_keys[:, 0], keys[:, 0]), max(len(self._sorted_keys) - 1, 0))
        has_stored = len(self._sorted_keys) > 0
        is_stored = (self._sorted_keys[index] == keys).all(axis=1) if has_stored else np.zeros(len(keys), np.bool_)
        if not is_stored.any():
            return self._measure_and_store(texts, keys)
        stored = signals.from_table(self._table.take(pa.array(self._table_rows[index[is_stored]])))
        new = self._measure_and_store(texts.filter(pa.array(~is_stored)), keys[~is_stored])
        rows = np.empty(len(keys), np.int64)
        rows[is_stored], rows[~is_stored] = np.arange(len(stored)), len(stored) + np.arange(len(new))
        return stored.followed_by(new).take(rows)

    def _measure_and_store(self, texts: pa.Array, keys: UInt64Array) -> Signals:
        measured = measure(texts, self.lists.stop_words, self.lists.phrases)
        if len(keys):
            table = measured.table()
            table = table.append_column("low", pa.array(keys[:, 0])).append_column("high", pa.array(keys[:, 1]))
            path = self._folder / f"{keys[0, 0]:016x}{keys[-1, 1]:016x}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = table.replace_schema_metadata({SCHEMA_VERSION: str(SCHEMAS["signals"].version)})
            # Several threads write at once; a file appears under its name only when it is complete.
            temporary = path.with_suffix(f".{threading.get_ident()}.tmp")
            pq.write_table(table, temporary, compression="lz4", use_dictionary=["language"])
            temporary.replace(path)
        return measured

    def _read(self) -> tuple[pa.Table, UInt64Array]:
        """Return all stored signals, and the hashes of their texts [n, 2]."""
        paths = sorted(self._folder.glob("*.parquet"))
        try:
            parts = [table for path in paths if _is_readable(table := pq.read_table(path), path)]
            table = pa.concat_tables(parts) if parts else None
        except (OSError, pa.ArrowInvalid):
            table = None
        if table is None:
            return pa.table({}), np.zeros((0, 2), np.uint64)
        return table, np.stack([table["low"].to_numpy(), table["high"].to_numpy()], axis=1)


def _is_readable(table: pa.Table, path: Path) -> bool:
    """Whether this version of the code can read the stored signals; otherwise they are measured again."""
    version = int((table.schema.metadata or {}).get(SCHEMA_VERSION.encode(), 0))
    return version_problem("signals", {SCHEMA_VERSION: version}, path) is None


def text_hashes(texts: pa.Array) -> UInt64Array:
    """Return the xxh3_128 hash of each text, uint64 [n, 2]."""
    data, offsets = string_buffers(texts)
    view: Any = memoryview(data)  # type: ignore[arg-type]
    hashes = (xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(offsets.tolist()))
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)
