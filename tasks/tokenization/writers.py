"""Write the token files of tasks/tokens.py part by part, so that memory does not depend on the number of tokens.

The files are those that `tokens.write_stream` and `tokens.write_records` write from arrays in memory, byte for byte.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks import tokens
from tasks.files import write_json


class StreamWriter:
    """The stream of one split, and its records. Use it as a context manager: files are complete when the block ends."""

    def __init__(self, folder: Path, vocab_size: int, record_kinds: Sequence[str]) -> None:
        self.folder = folder
        self.ids = tokens.ArrayWriter(folder / "ids.npy", tokens.ids_dtype(vocab_size))
        self.positions = tokens.ArrayWriter(folder / "positions.npy", np.uint32)
        self.loss_mask = tokens.ArrayWriter(folder / "loss_mask.npy", np.uint8)
        self.starts = tokens.ArrayWriter(folder / "record_starts.npy", np.int64)
        self.lengths = tokens.ArrayWriter(folder / "record_lengths.npy", np.int64)
        self._codes = {kind: tokens.ArrayWriter(folder / f"record_{kind}s.npy", np.int32) for kind in record_kinds}
        self._names: dict[str, dict[str, int]] = {kind: {} for kind in record_kinds}  # name -> its code for now

    def __enter__(self) -> "StreamWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._sort_names()
        for array in (self.ids, self.positions, self.loss_mask, self.starts, self.lengths, *self._codes.values()):
            array.close()

    @property
    def num_tokens(self) -> int:
        """The number of tokens so far, with padding."""
        return self.ids.size

    def append(self, stream: tokens.Stream) -> None:
        """Append tokens."""
        self.ids.append(stream.ids)
        self.positions.append(stream.positions)
        self.loss_mask.append(stream.loss_mask)

    def add_records(self, lengths: tokens.Ids, labels: Mapping[str, Sequence[str]]) -> None:
        """Append the number of tokens of each record, and a name for each by kind. `add_starts` appends the rest."""
        self.lengths.append(lengths)
        for kind, values in labels.items():
            codes = self._names[kind]
            self._codes[kind].append(np.array([codes.setdefault(value, len(codes)) for value in values], np.int32))

    def add_starts(self, starts: tokens.Ids) -> None:
        """Append the places of the first tokens of records, in the order of `add_records`."""
        self.starts.append(starts)

    def _sort_names(self) -> None:
        """Number the names of each kind in their order, as `tokens.make_records` does, and write them."""
        names = {kind: sorted(codes) for kind, codes in self._names.items()}
        for kind, codes in self._names.items():
            numbers = {name: number for number, name in enumerate(names[kind])}
            self._codes[kind].replace(np.array([numbers[name] for name in codes], np.int32))
        write_json(self.folder / "records.json", names)
