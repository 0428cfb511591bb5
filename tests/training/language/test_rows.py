from collections import Counter

import numpy as np

from tasks.tokens import Stream
from tasks.training.language.losses import IGNORED
from tasks.training.language.rows import Rows

PAD = 0


def stream(*lengths: int) -> Stream:
    """Documents of these lengths, ids counting from 10."""
    positions = np.concatenate([np.arange(n) for n in lengths]).astype(np.uint32)
    ids = np.arange(10, 10 + len(positions)).astype(np.uint16)
    return Stream(ids, positions, (positions > 0).astype(np.uint8))


def test_a_row_by_hand() -> None:
    """Documents 10 11 12 | 13 14 15 16 17 in rows of 4. The start of a document is never asked for."""
    rows = Rows(stream(3, 5), 4, 2, 2, 0, PAD)
    first, second = (next(iter(Rows(stream(3, 5), 4, 1, 1, 0, PAD).once())), next(iter(rows.once())))
    assert first.ids.tolist() == [[10, 11, 12, 13]]
    assert first.positions.tolist() == [[0, 1, 2, 0]]
    assert first.targets.tolist() == [[11, 12, IGNORED, 14]]
    assert first.weight == 3
    assert second.ids[1].tolist() == [14, 15, 16, PAD]
    assert second.positions[1].tolist() == [0, 1, 2, 0]  # the document goes on, but this row does not see its start
    assert second.targets[1].tolist() == [15, 16, 17, IGNORED]


def test_every_target_is_asked_once_an_epoch() -> None:
    words = stream(3, 5, 9, 2, 14, 1, 8)
    rows = Rows(words, 4, 3, 2, 0, PAD)
    wanted = Counter(int(i) for i in words.ids[words.positions > 0])
    seen: Counter[int] = Counter()
    for step in range(rows.count):  # three rows a step: three whole epochs
        for batch in rows.batches(step):
            seen.update(batch.targets[batch.targets != IGNORED].tolist())
    assert seen == Counter({i: 3 * n for i, n in wanted.items()})


def test_order_is_a_function_of_seed_and_step() -> None:
    def taken(seed: int, step: int) -> list[tuple[int, ...]]:
        return [batch.rows for batch in Rows(stream(100), 4, 4, 4, seed, PAD).batches(step)]

    assert taken(0, 3) == taken(0, 3)
    assert taken(0, 3) != taken(1, 3)
    assert taken(0, 3) != taken(0, 4)


def test_evaluation_takes_rows_spread_over_the_stream() -> None:
    rows = Rows(stream(81), 4, 1, 8, 0, PAD)
    assert [batch.rows for batch in rows.once(3)] == [(0, 10, 19)]
    assert sum(len(batch.rows) for batch in rows.once()) == 20
