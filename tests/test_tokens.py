"""Token files: rows of a stream predict every token exactly once; what is written is what is mapped."""

from pathlib import Path

import numpy as np
import pytest

from tasks import tokens
from tasks.errors import BadInput
from tasks.files import MANIFEST, SCHEMA_VERSION, write_json


def stream(length: int) -> tokens.Stream:
    ids = np.arange(length, dtype=np.uint16)
    return tokens.Stream(ids, ids.astype(np.uint32) % 5, np.ones(length, np.uint8))


@pytest.mark.parametrize(("length", "rows"), [(0, 0), (1, 0), (2, 1), (9, 2), (10, 3), (17, 4)])
def test_number_of_rows(length: int, rows: int) -> None:
    assert stream(length).num_rows(4) == rows


def test_every_token_but_the_first_is_a_target_once() -> None:
    packed = stream(18)
    targets = [int(i) for row in range(packed.num_rows(4)) for i in packed.row(row, 4)[0][1:]]
    assert targets == list(range(1, 18))


def test_streams_and_lists_come_back(tmp_path: Path) -> None:
    tokens.write_stream(tmp_path / "stream", stream(6))
    back = tokens.read_stream(tmp_path / "stream")
    assert back.ids.dtype == np.uint16
    assert back.positions.tolist() == [0, 1, 2, 3, 4, 0]
    tokens.write_ragged(tmp_path / "lists", [[1, 2], [], [70_000]], vocab_size=70_001)
    lists = tokens.read_ragged(tmp_path / "lists")
    assert [lists[i].tolist() for i in range(len(lists))] == [[1, 2], [], [70_000]]
    assert lists.ids.dtype == np.uint32


@pytest.mark.parametrize("place", [200, -1])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    folder = tmp_path / "tokens" / "documents" / "train"
    tokens.write_stream(folder, stream(60))
    write_json(tmp_path / "tokens" / MANIFEST, {tokens.DIGESTS: tokens.digests(tmp_path / "tokens"), SCHEMA_VERSION: 2})
    assert len(tokens.read_stream(folder).ids) == 60
    body = bytearray((folder / "ids.npy").read_bytes())
    body[place] ^= 1
    (folder / "ids.npy").write_bytes(body)
    with pytest.raises(BadInput, match=r"ids\.npy is damaged"):
        tokens.read_stream(folder)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Run tokenization again"):
        tokens.read_stream(tmp_path)
    tokens.write_ragged(tmp_path, [[1]], vocab_size=2)
    (tmp_path / "ids.npy").write_bytes(b"no array")
    with pytest.raises(BadInput, match="Run tokenization again"):
        tokens.read_ragged(tmp_path)
