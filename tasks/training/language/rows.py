"""Rows of a stream as batches, in an order that is a pure function of (seed, step)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.errors import BadInput
from tasks.tokens import Stream, read_stream
from tasks.training.language.losses import IGNORED


@dataclass(frozen=True, slots=True)
class Batch:
    """ids, positions, targets: int64 [rows, length]. targets are IGNORED where nothing is asked."""

    ids: Tensor
    positions: Tensor
    targets: Tensor
    weight: float  # number of targets
    rows: tuple[int, ...] = ()  # where they lie in the stream


class Rows:
    """The rows of `stream`, `global_batch_size` per step, cut into micro-batches of `micro_batch_size`.

    Every row is seen once per epoch, in an order that `seed` and the epoch give; batches run across epochs.
    """

    def __init__(
        self, stream: Stream, sequence_length: int, global_batch_size: int, micro_batch_size: int, seed: int, pad: int
    ) -> None:
        self.stream, self.length, self.pad = stream, sequence_length, pad
        self.count = stream.num_rows(sequence_length)
        self._global, self._micro = global_batch_size, micro_batch_size
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
    ) -> "Rows":
        """The rows of the stream in `folder`. Raises BadInput where it is damaged, or empty and `needed`."""
        stream = read_stream(folder)
        if needed and not stream.loss_mask.any():
            raise BadInput(f"{folder} holds nothing to train on: see the reports of ingestion, curation, tokenization")
        if len(stream.ids) and int(stream.ids.max()) >= len(tokenizer):
            raise BadInput(f"{folder} holds ids beyond the {len(tokenizer)} of its tokenizer: run tokenization again")
        return cls(stream, length, global_batch, micro_batch, seed, tokenizer.pad_token_id)

    def batches(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        first = step * self._global
        rows = [self._order(i // self.count)[i % self.count] for i in range(first, first + self._global)]
        return [self._batch(rows[start : start + self._micro]) for start in range(0, len(rows), self._micro)]

    def once(self, max_rows: int | None = None) -> Iterator[Batch]:
        """Every row once, in order: for evaluation. `max_rows`: that many, spread evenly over the stream."""
        rows = range(self.count)
        if max_rows is not None and max_rows < self.count:
            rows = np.linspace(0, self.count - 1, max_rows).round().astype(int).tolist()
        for start in range(0, len(rows), self._micro):
            yield self._batch(rows[start : start + self._micro])

    def _batch(self, rows: Sequence[int]) -> Batch:
        parts = [self._row(row) for row in rows]
        ids, positions, targets = (torch.from_numpy(np.stack(column)) for column in zip(*parts, strict=True))
        return Batch(ids, positions, targets, float((targets != IGNORED).sum()), tuple(int(row) for row in rows))

    def _row(self, row: int) -> tuple[npt.NDArray[Any], ...]:
        """One row as int64 arrays of `length`: a document that goes on from the row before starts at 0 again."""
        ids, positions, mask = (part.astype(np.int64) for part in self.stream.row(row, self.length))
        targets = np.where((mask[1:] == 1) & (positions[1:] > 0), ids[1:], IGNORED)
        starts = np.flatnonzero(positions == 0)
        carried = starts[0] if len(starts) else len(positions)
        positions[:carried] -= positions[0]
        short = self.length - len(targets)
        columns = (ids[:-1], self.pad), (positions[:-1], 0), (targets, IGNORED)
        return tuple(np.pad(column, (0, short), constant_values=value) for column, value in columns)
