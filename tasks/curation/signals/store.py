"""Store signals on disk by the hash of their text, so that new thresholds need no new measurement.

Nothing depends on this folder: it may be deleted at any time, and it is ignored if it cannot be read.
"""

import hashlib
import json
import tempfile
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
from tasks.curation.signals.column_files import ColumnFiles
from tasks.curation.signals.signals import Signals, measure, string_buffers
from tasks.files import SCHEMA_VERSION, SCHEMAS, version_problem

FOLDER = Path(".run/signals")
HALVES = ("low", "high")  # of the hash of a text


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
        self._stored, low, self._high = self._read()
        self._order = np.argsort(low, kind="stable")
        self._sorted_low = low[self._order]

    def measure(self, texts: pa.Array) -> Signals:
        """Return the signals of every text in a large_string array, and measure only the texts that are not stored."""
        keys = text_hashes(texts)
        if self._stored is None:
            return self._measure_and_store(texts, keys)
        # Search by the lower half of the hash, then compare both halves.
        places = np.minimum(np.searchsorted(self._sorted_low, keys[:, 0]), len(self._sorted_low) - 1)
        stored_rows = self._order[places]
        is_stored = (self._sorted_low[places] == keys[:, 0]) & (self._high[stored_rows] == keys[:, 1])
        if not is_stored.any():
            return self._measure_and_store(texts, keys)
        stored = self._stored.take(stored_rows[is_stored])
        if is_stored.all():
            return stored
        new = self._measure_and_store(texts.filter(pa.array(~is_stored)), keys[~is_stored])
        rows = np.empty(len(keys), np.int64)
        rows[is_stored], rows[~is_stored] = np.arange(len(stored)), len(stored) + np.arange(len(new))
        return stored.followed_by(new).take(rows)

    def _measure_and_store(self, texts: pa.Array, keys: UInt64Array) -> Signals:
        measured = measure(texts, self.lists.stop_words, self.lists.phrases)
        if len(keys):
            table = measured.table()
            for half, values in zip(HALVES, keys.T, strict=True):
                table = table.append_column(half, pa.array(values))
            path = self._folder / f"{keys[0, 0]:016x}{keys[-1, 1]:016x}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = table.replace_schema_metadata({SCHEMA_VERSION: str(SCHEMAS["signals"].version)})
            # Several threads write at once; a file appears under its name only when it is complete.
            temporary = path.with_suffix(f".{threading.get_ident()}.tmp")
            pq.write_table(table, temporary, compression="lz4", use_dictionary=["language"])
            temporary.replace(path)
        return measured

    def _read(self) -> tuple[Signals | None, UInt64Array, UInt64Array]:
        """Return all stored signals, or None without any, and the two halves of the hashes of their texts.

        They are mapped into memory from files that have no name any longer, and that end with this process.
        """
        paths = sorted(self._folder.glob("*.parquet"))
        if not paths:
            return None, np.empty(0, np.uint64), np.empty(0, np.uint64)
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            files = ColumnFiles(Path(scratch))
            for path in paths:
                if (table := _read_table(path)) is not None:
                    halves = {half: table[half].to_numpy() for half in HALVES}
                    files.append(dict(signals.from_table(table).columns()) | halves)
            columns: dict[str, Any] = files.read()
        if not columns:
            return None, np.empty(0, np.uint64), np.empty(0, np.uint64)
        low, high = (columns.pop(half) for half in HALVES)
        return Signals(**columns), low, high


def _read_table(path: Path) -> pa.Table | None:
    """Return the stored signals of a file; None if it cannot be read, so that they are measured again."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return None
    version = int((table.schema.metadata or {}).get(SCHEMA_VERSION.encode(), 0))
    return table if version_problem("signals", {SCHEMA_VERSION: version}, path) is None else None


def text_hashes(texts: pa.Array) -> UInt64Array:
    """Return the xxh3_128 hash of each text, uint64 [n, 2]."""
    data, offsets = string_buffers(texts)
    view: Any = memoryview(data)  # type: ignore[arg-type]
    hashes = (xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(offsets.tolist()))
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)
