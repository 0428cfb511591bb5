import numpy as np
import pytest

from tasks.tokenization import packing
from tasks.tokenization.fit_kernels import best_fit_starts
from tasks.tokens import best_fit


def lists(*lengths: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """List k has the ids 100 k + 1, 100 k + 2 ...; all except its first are targets."""
    result = []
    for number, length in enumerate(lengths, 1):
        mask = np.ones(length, np.uint8)
        mask[:1] = 0
        result.append((np.arange(1, length + 1) + 100 * number, mask))
    return result


def test_best_fit_by_hand() -> None:
    """6 6 4 3 into rows of 10: the 4 is put into the row of one 6, the 3 into the row of the other."""
    rows = best_fit(np.array([6, 6, 4, 3]), 10)
    assert sorted(sorted(row) for row in rows) == [[0, 3], [1, 2]]


def test_best_fit_takes_the_smallest_sufficient_space() -> None:
    """After 8, 7, 5 in rows of 10 (spaces 2, 3, 5), a 2 fits into every row and is put into the row of the 8."""
    assert best_fit(np.array([8, 7, 5, 2]), 10)[0] == [0, 3]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_best_fit_loses_nothing_overflows_nothing_and_fills(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 40, 500)
    rows = best_fit(lengths, 64)
    assert sorted(i for row in rows for i in row) == list(range(500))
    assert max(lengths[row].sum() for row in rows) <= 64
    assert lengths.sum() / (len(rows) * 64) > 0.95


@pytest.mark.parametrize("capacity", [1, 40, 64, 100, 1000])
def test_the_kernel_puts_every_list_where_best_fit_does(capacity: int) -> None:
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(0, min(capacity, 60) + 1, 300)
        rows, (starts, num_rows) = best_fit(lengths, capacity), best_fit_starts(lengths, capacity)
        assert num_rows == len(rows)
        for number, row in enumerate(rows):
            ends = number * capacity + np.cumsum(lengths[row])
            assert starts[row].tolist() == (ends - lengths[row]).tolist()


def test_packed_rows_by_hand() -> None:
    packed = packing.pack(lists(3, 2), 6, 0, 1000, seed=0)
    assert packed.stream.ids.tolist() == [101, 102, 103, 201, 202, 0]
    assert packed.stream.positions.tolist() == [0, 1, 2, 0, 1, 0]
    assert packed.stream.loss_mask.tolist() == [0, 1, 1, 0, 1, 0]
    assert (packed.num_rows, packed.num_truncated, packed.num_padding) == (1, 0, 1)


def test_a_list_longer_than_a_row_is_truncated_and_counted() -> None:
    packed = packing.pack(lists(9), 4, 0, 1000, seed=0)
    assert packed.stream.ids.tolist() == [101, 102, 103, 104]
    assert packed.num_truncated == 5


def test_no_token_is_lost_or_doubled() -> None:
    packed_lists = lists(*np.random.default_rng(0).integers(1, 30, 90).tolist())
    packed = packing.pack(packed_lists, 32, 0, 1 << 16, seed=3)
    expected = sorted(i for ids, _ in packed_lists for i in ids.tolist())
    assert sorted(packed.stream.ids[packed.stream.ids > 0].tolist()) == expected
    assert packed.stream.loss_mask.sum() == sum(mask.sum() for _, mask in packed_lists)
    assert len(packed.stream.ids) == 32 * packed.num_rows


def test_documents_follow_one_another() -> None:
    stream = packing.concatenate([np.array([1, 7, 8]), np.array([1, 9])], 300)
    assert stream.ids.tolist() == [1, 7, 8, 1, 9]
    assert stream.positions.tolist() == [0, 1, 2, 0, 1]
    assert stream.loss_mask.tolist() == [0, 1, 1, 0, 1]
    assert stream.ids.dtype == np.uint16
    assert packing.concatenate([np.array([1, 70_000])], 100_000).ids.dtype == np.uint32


def test_nothing_packs_to_nothing() -> None:
    assert len(packing.concatenate([], 300).ids) == 0
    assert packing.pack([], 8, 0, 300, 0).num_rows == 0
