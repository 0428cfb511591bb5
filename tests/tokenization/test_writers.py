"""Files that are written part by part are those that are written at once."""

from pathlib import Path

import numpy as np
import pytest

from tasks import tokens
from tasks.tokenization import packing
from tasks.tokenization.writers import StreamWriter

LABELS = {"source": ["web", "books", "web", "a", "books"], "language": ["zh", "en", "unknown", "en", "zh"]}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("vocab_size", [300, 100_000])
@pytest.mark.parametrize("part_sizes", [[], [5], [2, 3], [1, 0, 4]])
def test_a_stream_in_parts_has_the_bytes_of_the_whole(tmp_path: Path, part_sizes: list[int], vocab_size: int) -> None:
    documents = [np.arange(size) for size in (3, 1, 40, 7, 2)][: sum(part_sizes)]
    labels = {kind: names[: sum(part_sizes)] for kind, names in LABELS.items()}
    lengths = np.array([len(ids) for ids in documents], np.int64)
    tokens.write_stream(tmp_path / "whole", packing.concatenate(documents, vocab_size))
    starts = lengths.cumsum() - lengths
    tokens.write_records(tmp_path / "whole", tokens.make_records(starts, lengths, labels))
    with StreamWriter(tmp_path / "parts", vocab_size, tuple(LABELS)) as writer:
        first = 0
        for size in part_sizes:
            part = slice(first, first + size)
            writer.append(packing.concatenate(documents[part], vocab_size))
            writer.add_records(lengths[part], {kind: names[part] for kind, names in labels.items()})
            writer.add_starts(starts[part])
            first += size
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_an_array_of_many_entries_is_renumbered(tmp_path: Path) -> None:
    """More entries than are changed at once: 0 becomes 2, 1 becomes 0, 2 becomes 1."""
    codes = np.random.default_rng(0).integers(0, 3, 600_000).astype(np.int32)
    array = tokens.ArrayWriter(tmp_path / "codes.npy", np.int32)
    array.append(codes)
    array.replace(np.array([2, 0, 1]))
    array.close()
    assert (np.load(tmp_path / "codes.npy") == (codes + 2) % 3).all()


def test_lists_in_a_file_are_packed_as_those_in_memory(tmp_path: Path) -> None:
    """2,000 lists of 1 to 40 tokens, in rows of 32, so that some are truncated."""
    rng = np.random.default_rng(0)
    lists = [
        (rng.integers(0, 300, size), rng.integers(0, 2, size).astype(np.uint8)) for size in rng.integers(1, 41, 2000)
    ]
    packed = packing.pack(lists, 32, 0, 300, seed=1)
    stored = packing.StoredLists(tmp_path)
    for part in (lists[:700], lists[700:]):
        ids, mask = (np.concatenate([each[k] for each in part]) for k in range(2))
        starts = np.concatenate(([0], np.cumsum([len(each) for each, _ in part])))
        stored.append(ids.astype(np.uint32), mask.astype(np.uint8), starts)
    plan = packing.plan_rows(stored.finish(), 32, seed=1)
    parts = list(packing.packed_parts(plan, stored, 0, 300))
    stored.close()
    assert packed.num_truncated > 0
    assert (plan.starts == packed.starts).all()
    for name in ("ids", "positions", "loss_mask"):
        values = np.concatenate([getattr(part, name) for part in parts])
        assert values.tolist() == getattr(packed.stream, name).tolist()
    assert not list(tmp_path.iterdir())
