"""Preference pairs and prompts as token files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import BadInput, NothingLeft
from tasks.pairs import read_pairs, read_prompts, write_pairs, write_prompts


def write(folder: Any, prompts: Any, chosen: Any, rejected: Any, reasons: Any, lists: Any = None) -> None:
    columns = {"prompt": prompts, "chosen": chosen, "rejected": rejected}
    write_pairs(folder, columns, reasons, lists or [None] * len(reasons), 100)


def test_pairs_as_written_without_the_longest(tmp_path: Path) -> None:
    write(tmp_path, [[1, 2], [3], [4]], [[5], [6, 7, 8], [9]], [[1], [2], [3, 4]], ["a", "b", "c"])
    pairs = read_pairs(tmp_path, max_length=3)
    assert pairs.sequence(0, "chosen").tolist() == [1, 2, 5]
    assert pairs.sequence(1, "rejected").tolist() == [4, 3, 4]
    assert (pairs.reasons, pairs.num_too_long, pairs.lengths().tolist()) == (["a", "c"], 1, [3, 3])


def test_pairs_of_one_list_are_known_as_such(tmp_path: Path) -> None:
    write(tmp_path, [[1]] * 4, [[5]] * 4, [[6]] * 4, [""] * 4, [None, "x", None, "x"])
    lists = read_pairs(tmp_path).lists
    assert lists[1] == lists[3]
    assert len(set(lists.tolist())) == 3


def test_nothing_left_and_nothing_there(tmp_path: Path) -> None:
    write(tmp_path / "a", [[1, 2, 3]], [[5]], [[6]], [""])
    with pytest.raises(NothingLeft, match="all 1 are longer than 3"):
        read_pairs(tmp_path / "a", 3)
    with pytest.raises(BadInput):
        read_pairs(tmp_path / "b", 3)


def test_prompts_of_some_sources_without_the_longest(tmp_path: Path) -> None:
    sources = ["numbers", "letters", "numbers"]
    metadata = [{"text": source} for source in sources]
    write_prompts(tmp_path, [np.array(ids) for ids in ([1, 2], [3], [4])], metadata, 100, sources, {"letters"})
    prompts = read_prompts(tmp_path, 1, ["numbers"])
    assert ([ids.tolist() for ids in prompts.ids], prompts.num_too_long) == ([[4]], 1)
    assert len(read_prompts(tmp_path)) == 3
    assert [ids.tolist() for ids in read_prompts(tmp_path, sources=None).ids] == [[3]]  # of those with preferences
    with pytest.raises(NothingLeft, match="requested: numbres; available: letters, numbers"):
        read_prompts(tmp_path, 9, ["numbres"])
