"""Packed rows: their content by hand, their order, and the rows of an evaluation."""

from collections import Counter

import numpy as np

from tasks.causal.losses import IGNORED
from tasks.tokens import Stream
from tasks.training.language.rows import PackedRows

PAD = 0


def stream(*lengths: int) -> Stream:
    """Documents of these lengths, ids counting from 10."""
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.uint32)
    ids = np.arange(10, 10 + len(positions)).astype(np.uint16)
    return Stream(ids, positions, (positions > 0).astype(np.uint8))


def test_a_row_by_hand() -> None:
    """Documents 10 11 12 | 13 14 15 16 17 in rows of 4. The first token of a document is never a target."""
    rows = PackedRows(stream(3, 5), 4, 2, 2, 0, PAD)
    first, second = (next(iter(PackedRows(stream(3, 5), 4, 1, 1, 0, PAD).once())), next(iter(rows.once())))
    assert first.ids.tolist() == [[10, 11, 12, 13]]
    assert first.positions.tolist() == [[0, 1, 2, 0]]
    assert first.targets.tolist() == [[11, 12, IGNORED, 14]]
    assert first.weight == 3
    assert second.ids[1].tolist() == [14, 15, 16, PAD]
    assert second.positions[1].tolist() == [0, 1, 2, 0]  # the document continues, but its start is in another row
    assert second.targets[1].tolist() == [15, 16, 17, IGNORED]


def test_every_target_occurs_once_per_epoch() -> None:
    tokens = stream(3, 5, 9, 2, 14, 1, 8)
    rows = PackedRows(tokens, 4, 3, 2, 0, PAD)
    per_epoch = Counter(int(i) for i in tokens.ids[tokens.positions > 0])
    targets: Counter[int] = Counter()
    for step in range(rows.count):  # three rows per step: three whole epochs
        for batch in rows.batches(step):
            targets.update(batch.targets[batch.targets != IGNORED].tolist())
    assert targets == Counter({i: 3 * n for i, n in per_epoch.items()})


def test_order_is_a_function_of_seed_and_step() -> None:
    def row_numbers(seed: int, step: int) -> list[tuple[int, ...]]:
        return [batch.rows for batch in PackedRows(stream(100), 4, 4, 4, seed, PAD).batches(step)]

    assert row_numbers(0, 3) == row_numbers(0, 3)
    assert row_numbers(0, 3) != row_numbers(1, 3)
    assert row_numbers(0, 3) != row_numbers(0, 4)


def test_evaluation_takes_rows_spread_over_the_stream() -> None:
    rows = PackedRows(stream(81), 4, 1, 8, 0, PAD)
    assert [batch.rows for batch in rows.once(3)] == [(0, 10, 19)]
    assert sum(len(batch.rows) for batch in rows.once()) == 20
