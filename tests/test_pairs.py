"""Preference pairs and prompts as token files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.errors import BadInput, NothingLeft
from tasks.pairs import read_judged, read_pairs, read_prompts, write_pairs, write_prompts, write_unpaired


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


def test_judged_answers_are_those_of_pairs_and_then_the_unpaired_ones(tmp_path: Path) -> None:
    """Of the prompt 1 all answers are used, of 2 the bad one is too long; 3 was judged alone."""
    write(tmp_path, [[1], [2]], [[11], [21]], [[12], [22, 22, 22]], ["", ""])
    write_unpaired(tmp_path, [np.array([3])], [np.array([31, 31])], [False], 100)
    judged = read_judged(tmp_path, max_length=3)
    assert [ids.tolist() for ids in judged.prompts] == [[1], [1], [2], [3]]
    assert [ids.tolist() for ids in judged.answers] == [[11], [12], [21], [31, 31]]
    assert judged.is_good.tolist() == [True, False, True, False]
    # Always the next answer to another prompt: both rows of the prompt 1 skip to the prompt 2.
    assert [ids.tolist() for ids in judged.mismatched] == [[21], [21], [31, 31], [11]]
    assert (judged.num_too_long, judged.num_unpaired, judged.lengths().tolist()) == (1, 1, [2, 2, 3, 3])


def test_mismatched_answers_are_cut_to_the_length_of_a_row(tmp_path: Path) -> None:
    write(tmp_path, [], [], [], [])
    prompts, answers = [np.array(ids) for ids in ([1, 1], [2])], [np.array(ids) for ids in ([11], [21, 22])]
    write_unpaired(tmp_path, prompts, answers, [True, False], 100)
    assert [ids.tolist() for ids in read_judged(tmp_path, max_length=3).mismatched] == [[21], [11]]


def test_the_last_answers_of_one_prompt_are_mismatched_with_the_first_of_another(tmp_path: Path) -> None:
    """Also if one prompt is at both ends of the list, and if there is only one prompt."""
    write(tmp_path, [], [], [], [])
    for prompts, expected in (([1, 2, 1], [12, 13, 12]), ([1, 1], [12, 11])):
        ids = [np.array([prompt]) for prompt in prompts]
        answers = [np.array([11 + number]) for number in range(len(prompts))]
        write_unpaired(tmp_path, ids, answers, [True] * len(ids), 100)
        assert np.concatenate(read_judged(tmp_path).mismatched).tolist() == expected


def test_an_error_about_missing_pairs_names_the_answers_that_were_judged_alone(tmp_path: Path) -> None:
    write(tmp_path, [], [], [], [])
    write_unpaired(tmp_path, [np.array([1])], [np.array([2])], [True], 100)
    with pytest.raises(NothingLeft, match="the 1 answers that were judged alone are used only by dpo with loss: kto"):
        read_pairs(tmp_path)


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
    (tmp_path / "sources.json").unlink()
    with pytest.raises(BadInput, match=r"sources\.json is missing: .* Run the stage tokenization again"):
        read_prompts(tmp_path)
