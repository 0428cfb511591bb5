"""The order of records, and micro-batches of similar lengths."""

import numpy as np
import pytest

from tasks.training.preferences.order import micro_batches, step_indices, used_indices


def test_every_record_occurs_once_per_epoch_and_the_order_is_a_function_of_seed_and_step() -> None:
    steps = [step_indices(10, 4, step, seed=3) for step in range(5)]
    indices = np.concatenate(steps)
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    assert indices[:10].tolist() != indices[10:].tolist()
    assert step_indices(10, 4, 2, seed=3).tolist() == steps[2].tolist()
    assert step_indices(10, 4, 2, seed=4).tolist() != steps[2].tolist()


def test_a_step_may_span_several_epochs() -> None:
    assert sorted(step_indices(2, 5, 0, seed=0).tolist())[:2] == [0, 0]


def test_micro_batches_put_similar_lengths_together() -> None:
    parts = micro_batches(np.array([10, 11, 12]), np.array([5, 1, 3]), 2)
    assert [part.tolist() for part in parts] == [[11, 12], [10]]


@pytest.mark.parametrize(("count", "batch_size", "steps"), [(20, 4, 3), (20, 4, 5), (20, 6, 4), (20, 4, 0), (3, 8, 1)])
def test_the_records_that_a_run_reads_are_those_of_its_steps(count: int, batch_size: int, steps: int) -> None:
    of_steps = [step_indices(count, batch_size, step, 7) for step in range(steps)]
    expected = sorted({int(number) for indices in of_steps for number in indices})
    assert used_indices(count, batch_size, steps, 7).tolist() == expected
