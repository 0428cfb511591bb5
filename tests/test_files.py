"""A list that is written item by item is the file that is written at once."""

from pathlib import Path

import pytest

from tasks.files import write_json, write_json_list

ITEMS = [{"b": [1, {"c": "two\nlines, 中文"}], "a": {}}, [], "text", None, [[1.5]]]


@pytest.mark.parametrize("count", range(len(ITEMS) + 1))
def test_a_list_item_by_item_has_the_bytes_of_the_whole(tmp_path: Path, count: int) -> None:
    write_json(tmp_path / "whole.json", ITEMS[:count])
    assert write_json_list(tmp_path / "items.json", iter(ITEMS[:count])) == count
    assert (tmp_path / "items.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
