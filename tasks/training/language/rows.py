"""Packed rows of a token stream as batches, in an order that is a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.causal.losses import IGNORED
from tasks.errors import BadInput
from tasks.tokens import Stream, read_stream


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """ids, positions, targets: int64 [rows, length]. Targets are IGNORED where the model has nothing to predict."""

    ids: Tensor
    positions: Tensor
    targets: Tensor
    weight: float  # number of targets
    rows: tuple[int, ...] = ()  # numbers of the rows in the stream


class PackedRows:
    """The rows of `stream`: `global_batch_size` per step, split into micro-batches of `micro_batch_size`.

    Every row occurs once per epoch, in an order that depends on `seed` and the epoch. A batch may contain the last rows
    of one epoch and the first rows of the next.
    """

    def __init__(
        self, stream: Stream, sequence_length: int, global_batch_size: int, micro_batch_size: int, seed: int, pad: int
    ) -> None:
        self.stream, self.length, self.pad = stream, sequence_length, pad
        self.count = stream.num_rows(sequence_length)
        self._global_batch_size, self._micro_batch_size = global_batch_size, micro_batch_size
        # Two epochs, because a batch can be part of both.
        self._order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng((seed, epoch)).permutation(self.count))

    @classmethod
    def open(
        cls,
        folder: Path,
        length: int,
        global_batch: int,
        micro_batch: int,
        seed: int,
        tokenizer: Any,
        needed: bool = True,
    ) -> "PackedRows":
        """The rows of the stream in `folder`. Raises BadInput if it is damaged, or if it is empty and `needed`."""
        stream = read_stream(folder)
        if needed and not stream.loss_mask.any():
            raise BadInput(
                f"{folder} contains no token to train on. The reports of ingestion, curation and tokenization in "
                "data/reports show where documents were dropped."
            )
        if len(stream.ids) and int(stream.ids.max()) >= len(tokenizer):
            raise BadInput(
                f"{folder} contains the id {int(stream.ids.max())}, but its tokenizer has {len(tokenizer)} tokens. "
                "Run the stage tokenization again."
            )
        return cls(stream, length, global_batch, micro_batch, seed, tokenizer.pad_token_id)

    def batches(self, step: int) -> list[PackedBatch]:
        """The micro-batches of one step."""
        first = step * self._global_batch_size
        indices = range(first, first + self._global_batch_size)
        rows = [self._chosen(place) for place in indices]
        size = self._micro_batch_size
        return [self._batch(rows[start : start + size]) for start in range(0, len(rows), size)]

    def once(self, max_rows: int | None = None) -> Iterator[PackedBatch]:
        """Every row once, in order, for evaluation; at most `max_rows` of them, evenly spaced in the stream."""
        rows = range(self.count)
        if max_rows is not None and max_rows < self.count:
            rows = np.linspace(0, self.count - 1, max_rows).round().astype(int).tolist()
        for start in range(0, len(rows), self._micro_batch_size):
            yield self._batch(rows[start : start + self._micro_batch_size])

    def _chosen(self, place: int) -> int:
        """The row at a place of the run: the number of rows before it, in all steps."""
        return int(self._order(place // self.count)[place % self.count])

    def _read(self, row: int) -> tuple[npt.NDArray[Any], ...]:
        """ids, positions and loss mask of one row: `length` inputs and the target of the last one, or less."""
        return self.stream.row(row, self.length)

    def _batch(self, rows: Sequence[int]) -> PackedBatch:
        columns = zip(*(self._row(row) for row in rows), strict=True)
        ids, positions, targets = (torch.from_numpy(np.stack(column)) for column in columns)
        return PackedBatch(ids, positions, targets, float((targets != IGNORED).sum()), tuple(int(row) for row in rows))

    def _row(self, row: int) -> tuple[npt.NDArray[Any], ...]:
        """ids, positions and targets of one row, int64 [length] each.

        The stream gives length + 1 tokens, so that the last one has a target. The first token of a document is never a
        target: it would have to be predicted from another document.
        """
        ids, positions, mask = (part.astype(np.int64) for part in self._read(row))
        targets = np.where((mask[1:] == 1) & (positions[1:] > 0), ids[1:], IGNORED)
        # Where a document continues from the previous row, its positions begin at 0 again, because the model cannot see
        # the tokens before them.
        document_starts = np.flatnonzero(positions == 0)
        num_continued = document_starts[0] if len(document_starts) else len(positions)
        positions[:num_continued] -= positions[0]
        num_missing = self.length - len(targets)  # the last row of a stream is padded
        columns = (ids[:-1], self.pad), (positions[:-1], 0), (targets, IGNORED)
        return tuple(np.pad(column, (0, num_missing), constant_values=value) for column, value in columns)
