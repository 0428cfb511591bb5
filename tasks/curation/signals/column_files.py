"""Columns with one value per document in files, one per column, mapped into memory: they are on disk, not in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt


class ColumnFiles:
    """Appends the columns of one part of a corpus after another to files in `folder`, which replace earlier ones.

    Every part has the same columns. The type of a column is that of its first part.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._files = dict[str, IO[bytes]]()
        self._types = dict[str, np.dtype[Any]]()
        self._size = 0

    def append(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the values of the next documents."""
        for name, values in columns.items():
            if name not in self._files:
                path = self._path(name)
                path.unlink(missing_ok=True)  # a corpus that still uses the earlier file keeps it
                self._files[name], self._types[name] = open(path, "wb"), values.dtype  # noqa: SIM115 (`read` closes)
            assert np.can_cast(values.dtype, self._types[name]), (name, values.dtype, self._types[name])
            np.ascontiguousarray(values, self._types[name]).tofile(self._files[name])
        self._size += len(values)

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of all parts, mapped into memory. Call it once, after the last `append`."""
        for file in self._files.values():
            file.close()
        return {name: self._column(name, dtype) for name, dtype in self._types.items()}

    def _column(self, name: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        if not self._size:
            return np.empty(0, dtype)  # an empty file cannot be mapped
        return np.memmap(self._path(name), dtype, "r").view(np.ndarray)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bin"
