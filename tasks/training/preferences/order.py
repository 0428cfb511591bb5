"""The order in which a run reads records, as a pure function of (seed, step), and micro-batches of similar lengths."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def step_indices(count: int, batch_size: int, step: int, seed: int) -> Indices:
    """The numbers of the records that a step reads, of `count` records: [batch_size].

    Each record occurs once per epoch, and every epoch has its own order. A batch may span several epochs.
    """
    # A resumed run and each of several processes compute the same numbers, so that no order needs to be stored or sent.
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // count
    parts = [_epoch_order(count, epoch, seed)[positions[epochs == epoch] % count] for epoch in np.unique(epochs)]
    return np.concatenate(parts)


def used_indices(count: int, batch_size: int, steps: int, seed: int) -> Indices:
    """The numbers of the records that a run of `steps` steps reads, of `count` records, sorted."""
    num_epochs = -(-steps * batch_size // count)
    if num_epochs != 1:
        return np.arange(count if steps else 0)
    return np.sort(_epoch_order(count, 0, seed)[: steps * batch_size])


def _epoch_order(count: int, epoch: int, seed: int) -> Indices:
    order: Indices = np.random.default_rng([seed, int(epoch)]).permutation(count)
    return order


def micro_batches(indices: Indices, lengths: npt.NDArray[Any], size: int | None) -> Iterator[Indices]:
    """Divide `indices` into parts of at most `size` (None: one part) with similar `lengths`, to save padding."""
    ordered = indices[np.argsort(lengths, kind="stable")]
    size = size or len(ordered)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
