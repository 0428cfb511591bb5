"""Preference pairs as files, and their order."""

import numpy as np
import pytest

from tasks import tokens
from tasks.errors import BadInput, NothingLeft
from tasks.files import write_json
from tasks.training.preferences import pairs


def write(folder, prompts, chosen, rejected, reasons, lists=None):
    for name, rows in (("prompt", prompts), ("chosen", chosen), ("rejected", rejected)):
        tokens.write_ragged(folder / name, rows, 100)
    write_json(folder / "reasons.json", reasons)
    if lists is not None:
        write_json(folder / "lists.json", lists)


def test_pairs_as_written_without_the_longest(tmp_path):
    write(tmp_path, [[1, 2], [3], [4]], [[5], [6, 7, 8], [9]], [[1], [2], [3, 4]], ["a", "b", "c"])
    got = pairs.read(tmp_path, max_length=3)
    assert got.sequence(0, "chosen").tolist() == [1, 2, 5]
    assert got.sequence(1, "rejected").tolist() == [4, 3, 4]
    assert (got.reasons, got.num_too_long, got.lengths().tolist()) == (["a", "c"], 1, [3, 3])


def test_pairs_of_one_list_are_known_as_such(tmp_path):
    write(tmp_path, [[1]] * 4, [[5]] * 4, [[6]] * 4, [""] * 4, [None, "x", None, "x"])
    lists = pairs.read(tmp_path, 9).lists
    assert lists[1] == lists[3]
    assert len(set(lists.tolist())) == 3


def test_nothing_left_and_nothing_there(tmp_path):
    write(tmp_path / "a", [[1, 2, 3]], [[5]], [[6]], [""])
    with pytest.raises(NothingLeft, match="all 1 are longer than 3"):
        pairs.read(tmp_path / "a", 3)
    with pytest.raises(BadInput):
        pairs.read(tmp_path / "b", 3)


def test_every_record_comes_once_an_epoch_and_the_order_is_a_function_of_seed_and_step():
    steps = [pairs.step_order(10, 4, step, seed=3) for step in range(5)]
    taken = np.concatenate(steps)
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    assert pairs.step_order(10, 4, 2, seed=3).tolist() == steps[2].tolist()
    assert pairs.step_order(10, 4, 2, seed=4).tolist() != steps[2].tolist()


def test_a_step_may_take_more_than_an_epoch():
    assert sorted(pairs.step_order(2, 5, 0, seed=0).tolist())[:2] == [0, 0]


def test_micro_batches_put_like_lengths_together():
    parts = pairs.micro_batches(np.array([10, 11, 12]), np.array([5, 1, 3]), 2)
    assert [part.tolist() for part in parts] == [[11, 12], [10]]
