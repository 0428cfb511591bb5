"""A list that is written item by item is the file that is written at once."""

import os
import threading
import time
from pathlib import Path

import pytest

from tasks.errors import BadInput
from tasks.files import locked, sha256, verify, write_json, write_json_list

ITEMS = [{"b": [1, {"c": "two\nlines, 中文"}], "a": {}}, [], "text", None, [[1.5]]]


@pytest.mark.parametrize("count", range(len(ITEMS) + 1))
def test_a_list_item_by_item_has_the_bytes_of_the_whole(tmp_path: Path, count: int) -> None:
    write_json(tmp_path / "whole.json", ITEMS[:count])
    assert write_json_list(tmp_path / "items.json", iter(ITEMS[:count])) == count
    assert (tmp_path / "items.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["", "lock"])
def test_a_lock_of_a_folder_or_file_is_refused_by_name_until_it_is_released(tmp_path: Path, name: str) -> None:
    with locked(tmp_path / name), pytest.raises(BadInput, match="wait for it"), locked(tmp_path / name, "wait for it"):
        pass
    with locked(tmp_path / name, "wait for it"):
        pass


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    """A thread that asks for a lock gets it after the block that holds it."""
    order = []

    def work() -> None:
        with locked(tmp_path):
            order.append("second")

    thread = threading.Thread(target=work)
    with locked(tmp_path):
        thread.start()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_file_that_has_just_been_written_is_read_again(tmp_path: Path) -> None:
    """Its next change may leave the same time of change."""
    path, just_now = tmp_path / "a", time.time_ns() + 10**10
    path.write_bytes(b"one")
    os.utime(path, ns=(just_now, just_now))
    digest = sha256(path)
    verify(path, digest)
    path.write_bytes(b"two")
    os.utime(path, ns=(just_now, just_now))
    with pytest.raises(BadInput, match="damaged"):
        verify(path, digest)
