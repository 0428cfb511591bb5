"""The signals of a corpus in files, one per signal, mapped into memory: 560 bytes per document that are on disk."""

from pathlib import Path
from typing import IO, Any

import numpy as np

from tasks.curation.arrays import StringArray
from tasks.curation.signals.signals import NUMERIC_NAMES, Signals


class SignalFiles:
    """Appends the signals of one part of a corpus after another to files in `folder`, which replace earlier ones."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = {name: folder / f"{name}.bin" for name in NUMERIC_NAMES}
        self._files = dict[str, IO[bytes]]()
        self._types = dict[str, np.dtype[np.generic]]()
        self._languages: list[StringArray] = []  # 8 bytes per document, and used by every step

    def append(self, part: Signals) -> None:
        """Write the signals of the next documents."""
        for name, path in self._paths.items():
            values = np.ascontiguousarray(getattr(part, name))
            if name not in self._files:
                path.unlink(missing_ok=True)  # a corpus that still uses the earlier file keeps it
                self._files[name], self._types[name] = open(path, "wb"), values.dtype  # noqa: SIM115 (`read` closes)
            values.tofile(self._files[name])
        self._languages.append(part.language)

    def read(self) -> Signals:
        """Return the signals of all parts, at least one, mapped into memory. Call it once, after the last `append`."""
        for file in self._files.values():
            file.close()
        languages = np.concatenate(self._languages)
        columns = {name: self._column(name, len(languages)) for name in NUMERIC_NAMES}
        return Signals(**columns, language=languages)

    def _column(self, name: str, size: int) -> Any:
        if not size:
            return np.empty(0, self._types[name])  # an empty file cannot be mapped
        return np.memmap(self._paths[name], self._types[name], "r").view(np.ndarray)
