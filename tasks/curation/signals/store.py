"""Signals on disk by the hash of the text they were measured of: moving a threshold measures nothing again.

Nothing depends on this folder: it can be deleted at any time, and is left aside when it cannot be read.
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

FOLDER = Path(".run/signals")


@dataclass(frozen=True, slots=True)
class WordLists:
    """What signals are measured with: stop words by language, phrases by kind."""

    stop_words: Mapping[str, Sequence[str]]
    phrases: Mapping[str, Sequence[str]]

    def key(self) -> str:
        """Names these lists and the version of the signals."""
        body = json.dumps([signals.VERSION, self.stop_words, self.phrases], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()[:16]


class Store:
    """The signals measured so far with the same lists."""

    def __init__(self, lists: WordLists, folder: Path = FOLDER) -> None:
        self.lists, self._folder = lists, folder / lists.key()
        self._table, keys = self._read()
        order = np.argsort(keys[:, 0], kind="stable")
        self._keys, self._rows = keys[order], order  # sorted, and where each stands in the table

    def measure(self, texts: pa.Array) -> Signals:
        """The signals of every text, measured where they are not known yet."""
        keys = digests(texts)
        place = np.minimum(np.searchsorted(self._keys[:, 0], keys[:, 0]), max(len(self._keys) - 1, 0))
        known = (self._keys[place] == keys).all(axis=1) if len(self._keys) else np.zeros(len(keys), np.bool_)
        if not known.any():
            return self._measured(texts, keys)
        old = signals.from_table(self._table.take(pa.array(self._rows[place[known]])))
        new = self._measured(texts.filter(pa.array(~known)), keys[~known])
        rows = np.empty(len(keys), np.int64)
        rows[known], rows[~known] = np.arange(len(old)), len(old) + np.arange(len(new))
        return old.followed_by(new).take(rows)

    def _measured(self, texts: pa.Array, keys: UInt64Array) -> Signals:
        found = measure(texts, self.lists.stop_words, self.lists.phrases)
        if len(keys):
            table = found.table().append_column("low", pa.array(keys[:, 0])).append_column("high", pa.array(keys[:, 1]))
            path = self._folder / f"{keys[0, 0]:016x}{keys[-1, 1]:016x}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(f".{threading.get_ident()}.tmp")
            pq.write_table(table, beside, compression="lz4", use_dictionary=["language"])
            beside.replace(path)
        return found

    def _read(self) -> tuple[pa.Table, UInt64Array]:
        paths = sorted(self._folder.glob("*.parquet"))
        try:
            table = pa.concat_tables(pq.read_table(path) for path in paths) if paths else None
        except (OSError, pa.ArrowInvalid):
            table = None
        if table is None:
            return pa.table({}), np.zeros((0, 2), np.uint64)
        return table, np.stack([table["low"].to_numpy(), table["high"].to_numpy()], axis=1)


def digests(texts: pa.Array) -> UInt64Array:
    """xxh3_128 of each text, uint64 [n, 2]."""
    data, offsets = string_buffers(texts)
    view: Any = memoryview(data)  # type: ignore[arg-type]
    hashes = (xxhash.xxh3_128_digest(view[start:end]) for start, end in pairwise(offsets.tolist()))
    return np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)
