"""Rows of 64-bit numbers in files that are divided by a hash of their first column: the shuffle of the duplicates.

A task writes one file with its rows in the order of their partitions, and an index that says where each partition
begins. A task that needs one partition reads its slice of every file. Rows are in memory for one buffer at a time.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from tasks.compiled import kernel
from tasks.curation.arrays import BoolArray, Int64Array, UInt64Array
from tasks.errors import BadInput

BUFFER_ROWS = 1 << 20  # rows in memory before they are divided and written
PIECE_ROWS = 1 << 20  # rows that a reader gets at once

_STIR, _U0, _U1, _U32 = np.uint64(0xD6E8FEB86659FD93), np.uint64(0), np.uint64(1), np.uint64(32)


class RowWriter:
    """Writes rows uint64[n, width] into `folder`/`name`.rows, divided into 2^bits partitions. Use with `with`.

    distinct: rows that occur twice in a buffer are written once.
    """

    def __init__(self, folder: Path, name: str, width: int, bits: int, distinct: bool = False) -> None:
        self._file = open(folder / f"{name}.rows", "wb")  # noqa: SIM115 (`__exit__` closes it)
        self._index, self._width, self._bits, self._distinct = folder / f"{name}.npy", width, bits, distinct
        self._buffer: list[UInt64Array] = []
        self._num_buffered = self.num_rows = 0
        self._runs: list[UInt64Array] = []

    def __enter__(self) -> "RowWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._flush()
                np.save(self._index, np.array(self._runs, np.uint64).reshape(-1, 2, (1 << self._bits) + 1))

    def add(self, rows: UInt64Array) -> None:
        """Append rows, uint64[n, width]."""
        self._buffer.append(rows)
        self._num_buffered += len(rows)
        if self._num_buffered >= BUFFER_ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._num_buffered:
            return
        rows = np.ascontiguousarray(np.concatenate(self._buffer))
        self._buffer, self._num_buffered = [], 0
        if self._distinct:
            rows = rows[_first_occurrences(rows)]
        divided, offsets = np.empty_like(rows), np.zeros((1 << self._bits) + 1, np.int64)
        _divide(rows, 64 - self._bits, offsets, divided)
        view, size = memoryview(divided.data).cast("B"), 8 * self._width
        checksums = [xxhash.xxh3_64_intdigest(view[a * size : b * size]) for a, b in pairwise(offsets.tolist())]
        self._runs.append(np.array([offsets + self.num_rows, [*checksums, 0]], np.uint64))
        self._file.write(view)
        self.num_rows += len(rows)


def read_partition(folders: Iterable[str], name: str, width: int, partition: int) -> Iterator[UInt64Array]:
    """Yield the rows of one partition in the files of all folders, in pieces. Raises BadInput for a damaged file."""
    pieces, num_rows = list[UInt64Array](), 0
    for folder in folders:
        path = Path(folder) / f"{name}.rows"
        with open(path, "rb") as file:
            for offsets, checksums in np.load(Path(folder) / f"{name}.npy"):
                begin, end = int(offsets[partition]), int(offsets[partition + 1])
                if begin == end:
                    continue
                file.seek(begin * 8 * width)
                data = file.read((end - begin) * 8 * width)
                if xxhash.xxh3_64_intdigest(data) != int(checksums[partition]):
                    raise BadInput(f"{path} is damaged: delete {path.parent.parent}, and run the stage again.")
                pieces.append(np.frombuffer(data, np.uint64).reshape(-1, width))
                num_rows += end - begin
                if num_rows >= PIECE_ROWS:
                    yield np.concatenate(pieces)
                    pieces, num_rows = [], 0
    if pieces:
        yield np.concatenate(pieces)


class Minima:
    """A table of 64-bit keys with the smallest value and the number of values of each; it grows with its keys."""

    def __init__(self) -> None:
        self.num_keys = 0
        self._slots = np.zeros((1 << 12, 3), np.uint64)  # key, smallest value, number of values; 0 where it is free

    def add(self, keys: UInt64Array, values: UInt64Array) -> None:
        """Add one value to each key. Both are uint64[n]."""
        # At most 2 / 3 of the slots are in use, so that chains of occupied slots stay short.
        while 1.5 * (self.num_keys + len(keys)) > len(self._slots):
            larger = np.zeros((2 * len(self._slots), 3), np.uint64)
            _move_slots(self._slots, larger)
            self._slots = larger
        self.num_keys += int(_add_values(np.ascontiguousarray(keys), np.ascontiguousarray(values), self._slots))

    def find(self, keys: UInt64Array) -> tuple[UInt64Array, UInt64Array]:
        """Return the smallest value of each key and the number of its values; (0, 0) for an unknown key."""
        smallest, counts = np.empty(len(keys), np.uint64), np.empty(len(keys), np.uint64)
        _find_values(np.ascontiguousarray(keys), self._slots, smallest, counts)
        return smallest, counts


def _first_occurrences(rows: UInt64Array) -> BoolArray:
    is_first = np.empty(len(rows), np.bool_)
    _mark_first(rows, np.full(1 << int(1.5 * len(rows)).bit_length(), -1, np.int64), is_first)
    return is_first


@kernel("uint64(uint64)", inline="always")
def _mixed(key: np.uint64) -> np.uint64:
    h = key * _STIR
    h = (h ^ (h >> _U32)) * _STIR
    return h ^ (h >> _U32)  # partitions are the highest bits, and slots of tables the lowest ones


@kernel("void(uint64[:, ::1], int64, int64[::1], uint64[:, ::1])")
def _divide(rows: UInt64Array, shift: int, offsets: Int64Array, divided: UInt64Array) -> None:
    """Write the rows in the order of their partitions to `divided`, and where each partition begins to `offsets`."""
    partitions = np.empty(len(rows), np.int64)
    for i in range(len(rows)):
        partitions[i] = np.int64(_mixed(rows[i, 0]) >> np.uint64(shift)) if shift < 64 else 0
        offsets[partitions[i] + 1] += 1
    for partition in range(len(offsets) - 1):
        offsets[partition + 1] += offsets[partition]
    ends = offsets[:-1].copy()
    for i in range(len(rows)):
        place = ends[partitions[i]]
        ends[partitions[i]] += 1
        for column in range(rows.shape[1]):
            divided[place, column] = rows[i, column]


@kernel("void(uint64[:, ::1], int64[::1], boolean[::1])")
def _mark_first(rows: UInt64Array, table: Int64Array, is_first: BoolArray) -> None:
    """Mark the rows that equal no earlier one. table: -1 where it is free, else the first row of its value."""
    mask = np.uint64(len(table) - 1)
    for i in range(len(rows)):
        h = _U0
        for column in range(rows.shape[1]):
            h = _mixed(h ^ rows[i, column])
        slot = h & mask
        is_first[i] = True
        while table[slot] >= 0:
            equal = True
            for column in range(rows.shape[1]):
                equal &= rows[table[slot], column] == rows[i, column]
            if equal:
                is_first[i] = False
                break
            slot = (slot + _U1) & mask
        if is_first[i]:
            table[slot] = i


@kernel("int64(uint64[::1], uint64[::1], uint64[:, ::1])")
def _add_values(keys: UInt64Array, values: UInt64Array, slots: UInt64Array) -> int:
    """Add values to an open hash table with linear probing; return the number of new keys."""
    mask, num_new = np.uint64(len(slots) - 1), 0
    for i in range(len(keys)):
        slot = _mixed(keys[i]) & mask
        while slots[slot, 2] != _U0 and slots[slot, 0] != keys[i]:
            slot = (slot + _U1) & mask
        if slots[slot, 2] == _U0:
            slots[slot, 0], slots[slot, 1] = keys[i], values[i]
            num_new += 1
        else:
            slots[slot, 1] = min(slots[slot, 1], values[i])
        slots[slot, 2] += _U1
    return num_new


@kernel("void(uint64[::1], uint64[:, ::1], uint64[::1], uint64[::1])")
def _find_values(keys: UInt64Array, slots: UInt64Array, smallest: UInt64Array, counts: UInt64Array) -> None:
    """Write what the table has for each key."""
    mask = np.uint64(len(slots) - 1)
    for i in range(len(keys)):
        slot = _mixed(keys[i]) & mask
        while slots[slot, 2] != _U0 and slots[slot, 0] != keys[i]:
            slot = (slot + _U1) & mask
        smallest[i], counts[i] = slots[slot, 1], slots[slot, 2]


@kernel("void(uint64[:, ::1], uint64[:, ::1])")
def _move_slots(slots: UInt64Array, larger: UInt64Array) -> None:
    """Copy the slots in use to a larger table."""
    mask = np.uint64(len(larger) - 1)
    for i in range(len(slots)):
        if slots[i, 2] != _U0:
            key = slots[i, 0]
            slot = _mixed(key) & mask
            while larger[slot, 2] != _U0:
                slot = (slot + _U1) & mask
            for column in range(3):
                larger[slot, column] = slots[i, column]
