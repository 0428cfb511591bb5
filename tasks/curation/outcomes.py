"""The outcome of every document in two bytes: a code for KEPT, or for the reason why it was dropped."""

from collections import Counter
from collections.abc import Collection

import numpy as np

from tasks.curation.arrays import BoolArray, Int16Array, Int64Array, ObjectArray
from tasks.curation.filtering import KEPT


class Outcomes:
    """The reasons of all documents, in the order of data/documents. `append` adds the documents of the next part."""

    def __init__(self) -> None:
        self._code_of = {KEPT: 0}
        self._parts = list[Int16Array]()

    def __len__(self) -> int:
        return len(self.codes)

    def append(self, reasons: ObjectArray) -> None:
        """Add documents with their reasons, "filter.reason" or KEPT."""
        codes = (self._code(reason) for reason in reasons.tolist())
        self._parts.append(np.fromiter(codes, np.int16, len(reasons)))

    @property
    def codes(self) -> Int16Array:
        """The position in `names` of the reason of each document, int16[n]."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.empty(0, np.int16), *self._parts])]
        return self._parts[0]

    @property
    def names(self) -> list[str]:
        """KEPT, and the reasons of documents."""
        return list(self._code_of)

    @property
    def kept(self) -> BoolArray:
        """Which documents have no reason, bool[n]."""
        return np.asarray(self.codes == 0, np.bool_)

    def drop(self, rows: Int64Array | int, reason: str) -> None:
        """Set the reason of some documents."""
        self.codes[rows] = self._code(reason)

    def rows(self, reason: str) -> Int64Array:
        """Return the documents that were dropped for `reason`."""
        return np.flatnonzero(self.codes == self._code_of.get(reason, -1))

    def take(self, rows: Int64Array) -> list[str]:
        """Return the reasons of some documents."""
        names = self.names
        return [names[code] for code in self.codes[rows].tolist()]

    def count(self, selected: BoolArray | None = None) -> Counter[str]:
        """Return reason -> number of documents dropped for it, among those where `selected`, bool[n], is true."""
        codes = self.codes if selected is None else self.codes[selected]
        counts = np.bincount(codes, minlength=len(self._code_of)).tolist()
        return Counter({name: n for name, n in zip(self.names, counts, strict=True) if n and name != KEPT})

    def in_steps(self, steps: Collection[str]) -> BoolArray:
        """Return which documents one of some steps has dropped, bool[n]. The step of a reason is before its dot."""
        return np.array([name.split(".")[0] in steps for name in self.names], np.bool_)[self.codes]

    def _code(self, reason: str) -> int:
        return self._code_of.setdefault(reason, len(self._code_of))
