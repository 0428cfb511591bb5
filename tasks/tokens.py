"""Memory-mapped token files: streams (packed, for training on every position) and ragged lists (one list per record).

A stream is three flat arrays of equal length. Row r of sequence_length T is the slice [r*T, r*T + T + 1): T inputs and
their T targets. Neighboring rows share one token, which is the last target of one row and the first input of the next,
so that each token is predicted exactly once. `positions` restarts at 0 for every document. A token at position 0 is
never a target: no document is predicted from the previous one, and padding (position 0 throughout) is ignored.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import BadInput
from tasks.files import MANIFEST, read_json, rerun_advice, sha256, verify, version_problem, write_json

Ids = npt.NDArray[np.integer[Any]]

DIGESTS = "sha256"  # the key of the manifest that has the digest of each array
CHUNK = 1 << 18  # entries of a file that are changed at once
LISTS = 1024  # lists of ids that are written at once


@dataclass(frozen=True, slots=True)
class Stream:
    """ids: uint16 or uint32; positions: uint32; loss_mask: uint8, 1 if the token is a target; each [num_tokens]."""

    ids: Ids
    positions: Ids
    loss_mask: npt.NDArray[np.uint8]

    def num_rows(self, sequence_length: int) -> int:
        """Return the number of rows, including a last row that is shorter."""
        return max(0, -(-(len(self.ids) - 1) // sequence_length))

    def row(self, index: int, sequence_length: int) -> tuple[Ids, Ids, npt.NDArray[np.uint8]]:
        """Return ids, positions, loss_mask of row `index`, each of length sequence_length + 1 or less."""
        part = slice(index * sequence_length, (index + 1) * sequence_length + 1)
        return self.ids[part], self.positions[part], self.loss_mask[part]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Lists of ids of unequal length. ids: all lists concatenated; offsets: int64 [num_lists + 1]."""

    ids: Ids
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Ids:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a stream (documents or conversations), each with its place and its source and language.

    starts, lengths: int64, position of the first token in the stream, and number of tokens. groups: by "source" and by
    "language", the number of each record's name in `names`, int32; each [num_records].
    """

    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    groups: dict[str, npt.NDArray[np.int32]]
    names: dict[str, list[str]]


def make_records(starts: Ids, lengths: Ids, labels: Mapping[str, Sequence[str]]) -> Records:
    """Return the records of a stream; `labels` has a name for each record, by "source" and by "language"."""
    names, groups = dict[str, list[str]](), dict[str, npt.NDArray[np.int32]]()
    for kind, values in labels.items():
        unique, codes = np.unique(np.asarray(values, str), return_inverse=True)
        names[kind], groups[kind] = unique.tolist(), codes.astype(np.int32)
    return Records(np.asarray(starts, np.int64), np.asarray(lengths, np.int64), groups, names)


def ids_dtype(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smaller of the two id types that can represent the vocabulary."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def write_stream(folder: Path, stream: Stream) -> None:
    """Write a stream as three .npy files."""
    _write(folder, {"ids": stream.ids, "positions": stream.positions, "loss_mask": stream.loss_mask})


def read_stream(folder: Path) -> Stream:
    """Map a stream; pages are read from disk when they are used. Raises BadInput if a file cannot be read."""
    ids, positions, loss_mask = _read(folder, ("ids", "positions", "loss_mask"))
    return Stream(ids, positions, loss_mask)


def write_records(folder: Path, records: Records) -> None:
    """Write where the records of the stream in `folder` are, and their sources and languages."""
    groups = {f"record_{kind}s": codes for kind, codes in records.groups.items()}
    _write(folder, {"record_starts": records.starts, "record_lengths": records.lengths, **groups})
    write_json(folder / "records.json", records.names)


def read_records(folder: Path) -> Records:
    """Map the records of a stream. Raises BadInput if a file cannot be read."""
    if not (folder / "records.json").is_file():
        raise BadInput(f"{folder} does not state the sources of its records. Run tokenization again.")
    names = dict(read_json(folder / "records.json"))
    starts, lengths, *codes = _read(folder, ("record_starts", "record_lengths", *(f"record_{kind}s" for kind in names)))
    return Records(starts, lengths, dict(zip(names, codes, strict=True)), names)


def write_ragged(folder: Path, lists: Iterable[Sequence[int] | Ids], vocab_size: int) -> int:
    """Write lists of ids as two .npy files: one flat array and its offsets. Returns the number of ids.

    Only some of the lists are in memory at a time, if `lists` is an iterator.
    """
    with RaggedWriter(folder, vocab_size) as writer:
        iterator = iter(lists)
        while part := list(islice(iterator, LISTS)):
            writer.append(part)
    return writer.num_tokens


def read_ragged(folder: Path) -> Ragged:
    """Map lists of ids. Raises BadInput if a file cannot be read."""
    ids, offsets = _read(folder, ("ids", "offsets"))
    return Ragged(ids, offsets)


class RaggedWriter:
    """Lists of ids as `read_ragged` reads them, written part by part. Files are complete when the block ends."""

    def __init__(self, folder: Path, vocab_size: int) -> None:
        self._ids = ArrayWriter(folder / "ids.npy", ids_dtype(vocab_size))
        self._offsets = ArrayWriter(folder / "offsets.npy", np.int64)
        self._offsets.append(np.zeros(1, np.int64))

    def __enter__(self) -> "RaggedWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Complete the files."""
        self._ids.close()
        self._offsets.close()

    @property
    def num_tokens(self) -> int:
        """The number of ids so far."""
        return self._ids.size

    def append(self, lists: Sequence[Sequence[int] | Ids]) -> None:
        """Append lists of ids."""
        if lists:
            self._offsets.append(self.num_tokens + np.cumsum([len(values) for values in lists]))
            self._ids.append(np.concatenate([np.asarray(values, self._ids.dtype) for values in lists]))


class ArrayWriter:
    """One flat .npy file. The number of entries, which its first bytes state, is entered when it is closed."""

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.dtype, self.size = np.dtype(dtype), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w+b")  # noqa: SIM115 - `close` closes it
        self._write_header()
        self._start = self._file.tell()

    def append(self, values: npt.NDArray[Any]) -> None:
        """Append entries, which are converted to the type of the file."""
        self._file.write(np.ascontiguousarray(values, self.dtype).data)
        self.size += len(values)

    def replace(self, values: npt.NDArray[Any]) -> None:
        """Replace every entry by values[entry]."""
        for first in range(0, self.size, CHUNK):
            place = self._start + first * self.dtype.itemsize
            self._file.seek(place)
            part = np.frombuffer(self._file.read(CHUNK * self.dtype.itemsize), self.dtype)
            self._file.seek(place)
            self._file.write(values[part].astype(self.dtype).data)

    def close(self) -> None:
        """Enter the number of entries, and close the file."""
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._start or not self.size  # numpy leaves space for any number
        self._file.close()

    def _write_header(self) -> None:
        description = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self._file, description)


def _write(folder: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _read(folder: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    root, manifest = _manifest(folder)
    paths = [folder / f"{name}.npy" for name in names]
    try:
        for path in paths:
            verify(path, manifest.get(DIGESTS, {}).get(path.relative_to(root).as_posix()))
        return [np.load(path, mmap_mode="r") for path in paths]
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} holds no readable token files ({error}). Run tokenization again.") from error


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of each array below `folder`, for the manifest of this folder."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(folder.rglob("*.npy"))}


def _manifest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return data/tokens, up to three levels above, and its manifest: the version and digests of all token files."""
    for parent in list(folder.parents)[:3]:
        path = parent / MANIFEST
        if path.is_file():
            manifest: dict[str, Any] = read_json(path)
            if problem := version_problem("tokens", manifest, path):
                raise BadInput(f"{problem} {rerun_advice(path)}")
            return parent, manifest
    return folder, {}


def best_fit(lengths: Ids, capacity: int) -> list[list[int]]:
    """Best-fit decreasing bin packing. Returns rows of indices whose lengths add up to at most `capacity`.

    Each list, the longest first, is put into the row with the smallest sufficient space, or into a new row. Rows are
    grouped by their free space, of which there are at most `capacity` values, so that a row is found in O(log capacity)
    and the total time is O(n log capacity) instead of O(n^2). The number of rows is at most 11/9 of the optimum plus a
    constant (Johnson 1973).
    """
    rows: list[list[int]] = []
    rows_by_space: dict[int, list[int]] = {}
    spaces: list[int] = []  # the keys of rows_by_space, sorted
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        smallest = bisect_left(spaces, length)
        if smallest == len(spaces):
            row, space = len(rows), capacity
            rows.append([])
        else:
            space = spaces[smallest]
            row = rows_by_space[space].pop()
            if not rows_by_space[space]:
                del rows_by_space[space], spaces[smallest]
        rows[row].append(index)
        if space > length:
            if space - length not in rows_by_space:
                insort(spaces, space - length)
            rows_by_space.setdefault(space - length, []).append(row)
    return rows
