"""Memory-mapped token files: streams (packed, for training on every position) and ragged lists (one list per record).

A stream is three flat arrays of equal length. Row r of sequence_length T is the slice [r*T, r*T + T + 1): T inputs and
their T targets. Neighboring rows share one token, which is the last target of one row and the first input of the next,
so that each token is predicted exactly once. `positions` restarts at 0 for every document. A token at position 0 is
never a target: no document is predicted from the previous one, and padding (position 0 throughout) is ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.errors import BadInput
from tasks.files import MANIFEST, read_json, rerun_advice, version_problem

Ids = npt.NDArray[np.integer[Any]]


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


def write_ragged(folder: Path, lists: Sequence[Sequence[int] | Ids], vocab_size: int) -> None:
    """Write lists of ids as two .npy files: one flat array and its offsets."""
    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(ids) for ids in lists], out=offsets[1:])
    dtype = ids_dtype(vocab_size)
    flat = np.concatenate([np.zeros(0, dtype), *(np.asarray(ids, dtype) for ids in lists)])
    _write(folder, {"ids": flat, "offsets": offsets})


def read_ragged(folder: Path) -> Ragged:
    """Map lists of ids. Raises BadInput if a file cannot be read."""
    ids, offsets = _read(folder, ("ids", "offsets"))
    return Ragged(ids, offsets)


def _write(folder: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _read(folder: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    _check_version(folder)
    try:
        return [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} holds no readable token files ({error}). Run tokenization again.") from error


def _check_version(folder: Path) -> None:
    """The manifest of data/tokens, two or three levels above, states the schema version of all token files."""
    for path in (parent / MANIFEST for parent in list(folder.parents)[:3]):
        if path.is_file():
            if problem := version_problem("tokens", read_json(path), path):
                raise BadInput(f"{problem} {rerun_advice(path)}")
            return
