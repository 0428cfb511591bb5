"""Duplicates over files: the same clusters as in memory, for any number of partitions, tasks, and any order."""

import random
from collections.abc import Generator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation import text_files
from tasks.curation.arrays import Int32Array, UInt64Array
from tasks.curation.duplicates import clusters, minhash, out_of_core, row_files, stars
from tasks.curation.duplicates.ranking import best_rows
from tasks.curation.duplicates.row_files import Minima, RowWriter, read_partition
from tasks.engine import settings
from tasks.engine.engine import Crash, Part, Task
from tasks.engine.local_engine import LocalEngine
from tasks.errors import BadInput


def numbers(*rows: tuple[int, ...]) -> UInt64Array:
    return np.array(rows, np.uint64)


def test_every_row_is_in_one_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows with the keys 0 to 4, in buffers of 3 rows and 4 partitions: equal keys are in the same partition."""
    monkeypatch.setattr(row_files, "BUFFER_ROWS", 3)
    with RowWriter(tmp_path, "some", 2, 2) as writer:
        for i in range(10):
            writer.add(numbers((i % 5, i)))
    partitions = [[tuple(row) for rows in read_partition([str(tmp_path)], "some", 2, p) for row in rows.tolist()]
                  for p in range(4)]  # fmt: skip
    assert sorted(row for rows in partitions for row in rows) == sorted((i % 5, i) for i in range(10))
    keys = [{key for key, _ in rows} for rows in partitions]
    assert sum(map(len, keys)) == 5


def test_equal_rows_are_written_once(tmp_path: Path) -> None:
    with RowWriter(tmp_path, "some", 2, 0, distinct=True) as writer:
        writer.add(numbers((1, 2), (1, 3), (1, 2), (2, 2), (1, 3)))
    assert [rows.tolist() for rows in read_partition([str(tmp_path)], "some", 2, 0)] == [[[1, 2], [1, 3], [2, 2]]]


def test_damage_is_noticed(tmp_path: Path) -> None:
    with RowWriter(tmp_path, "some", 2, 0) as writer:
        writer.add(numbers((1, 2)))
    (tmp_path / "some.rows").write_bytes(bytes(16))
    with pytest.raises(BadInput, match=r"some\.rows is damaged"):
        list(read_partition([str(tmp_path)], "some", 2, 0))


def test_smallest_values_and_counts() -> None:
    table = Minima()
    table.add(numbers((0, 5), (7, 3), (0, 2))[:, 0].copy(), np.array([5, 3, 2], np.uint64))
    table.add(np.arange(100, 10_100, dtype=np.uint64), np.arange(10_000, dtype=np.uint64))  # it grows
    smallest, counts = table.find(np.array([0, 7, 100, 10_099, 8], np.uint64))
    assert smallest.tolist()[:4] == [2, 3, 0, 9999]
    assert counts.tolist() == [2, 1, 1, 1, 0]
    assert table.num_keys == 10_002


def components_of(edges: list[tuple[int, int]], folder: Path, bits: int) -> dict[int, int]:
    engine = LocalEngine(folder)
    manifest = engine.run("edges", ["a"], write_edges, {"a": {"edges": edges, "bits": bits}})
    result, _ = stars.components(engine, manifest, bits)
    folders = [str(result.folder / part.name) for part in result.parts.values()]
    pieces = [rows.tolist() for p in range(1 << bits) for rows in read_partition(folders, stars.EDGES, 2, p)]
    return {node: smallest for rows in pieces for node, smallest in rows if node > smallest}


def write_edges(part: Path, task: dict[str, list[tuple[int, int]]]) -> dict[str, int]:
    with RowWriter(part, stars.EDGES, 2, int(task["bits"])) as writer:  # type: ignore[call-overload]
        writer.add(stars.both_directions(np.array(task["edges"], np.uint64)))
    return {}


@pytest.mark.parametrize("bits", [0, 2])
def test_components_of_a_chain_and_a_star(tmp_path: Path, bits: int) -> None:
    """A chain 9-3-8-1-5 has the smallest node 1, a star around 20 with 11, 12, 13 has 11."""
    edges = [(9, 3), (3, 8), (8, 1), (1, 5), (20, 11), (20, 12), (13, 20), (13, 20)]
    assert components_of(edges, tmp_path, bits) == {9: 1, 3: 1, 8: 1, 5: 1, 20: 11, 12: 11, 13: 11}


def test_components_of_a_long_chain(tmp_path: Path) -> None:
    nodes = random.Random(0).sample(range(1000), 200)
    smallest = min(nodes)
    edges = list(pairwise(nodes))
    assert components_of(edges, tmp_path, 1) == {node: smallest for node in nodes if node != smallest}


def corpus() -> list[str]:
    """Forty texts of 60 random words; ten with one changed word, five equal ones, a short one and an empty one."""
    generator = random.Random(1)
    words = [f"w{i}" for i in range(500)]
    texts = [" ".join(generator.choices(words, k=60)) for _ in range(40)]
    for i in range(10):
        changed = texts[i].split()
        changed[30] = "changed"
        texts.append(" ".join(changed))
    return [*texts, *texts[:5], "short", ""]


@pytest.mark.parametrize(("memory", "task_bytes"), [(1 << 30, 1 << 20), (40_000, 1)])
def test_clusters_are_those_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, task_bytes: int
) -> None:
    monkeypatch.setattr(out_of_core, "TASK_BYTES", task_bytes)
    params = minhash.Params.model_validate({})
    kept = []
    for seed in (1, 2):
        documents = list(enumerate(corpus()))
        random.Random(seed).shuffle(documents)
        array = pa.array([text for _, text in documents], pa.large_string())
        path = tmp_path / f"{seed}.arrow"
        texts = text_files.write(path, [array.slice(i, 10) for i in range(0, len(array), 10)])
        roots = out_of_core.connect(LocalEngine(tmp_path / f"run-{seed}"), path, params, memory, lambda _: None)
        ids = pa.array([f"{number:03d}" for number, _ in documents])
        priority = np.zeros(len(texts), np.int64)
        copy_of, sizes = minhash.duplicates(texts, params, priority, ids)
        best, other_sizes = best_rows(roots, priority, out_of_core.text_lengths(texts), ids)
        assert best.tolist() == copy_of.tolist()
        assert other_sizes.tolist() == sizes.tolist()
        kept.append({number for (number, _), row in zip(documents, best.tolist(), strict=True) if row < 0})
    assert kept[0] == kept[1]
    assert len(kept[0]) == 42


def test_a_large_component_is_processed_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blocks of 300 bytes, each block has one text and its neighbors in the bucket."""
    params, array = minhash.Params.model_validate({}), pa.array(corpus(), pa.large_string())
    expected = minhash.duplicates(array, params, np.zeros(len(array)))[0].tolist()
    monkeypatch.setattr(clusters, "BATCH_BYTES", 300)
    monkeypatch.setattr(clusters, "LARGE_BYTES", 0)
    assert minhash.duplicates(array, params, np.zeros(len(array)))[0].tolist() == expected
    path = tmp_path / "texts.arrow"
    text_files.write(path, [array])
    roots = out_of_core.connect(LocalEngine(tmp_path / "run"), path, params, 1 << 30, lambda _: None)
    lengths = out_of_core.text_lengths(pa.chunked_array([array]))
    assert best_rows(roots, np.zeros(len(array)), lengths, None)[0].tolist() == expected


def test_the_memory_decides_where_the_keys_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, params = tmp_path / "texts.arrow", minhash.Params.model_validate({})
    texts = text_files.write(path, [pa.array(corpus(), pa.large_string())])
    calls = list[int]()
    connect = out_of_core.connect

    def counted(*arguments: Any) -> Int32Array:
        calls.append(1)
        return connect(*arguments)

    monkeypatch.setattr(out_of_core, "connect", counted)
    monkeypatch.setattr(out_of_core, "partition_bits", lambda *_: 1)  # few files, so that the test is fast
    results = []
    for size in (10**9, 5_000):
        monkeypatch.setattr(settings, "memory_bytes", partial(int, size))
        results.append(out_of_core.duplicates(texts, path, params, np.zeros(len(texts), np.int64))[0].tolist())
    assert results[0] == results[1]
    assert len(calls) == 1
    assert not (tmp_path / "texts-duplicates").exists()


def test_a_resumed_run_uses_nothing_of_other_texts(tmp_path: Path) -> None:
    """The run of one text twice is killed after it was signed. Then one of the two is another text of equal length."""
    path, params, engine = tmp_path / "texts.arrow", minhash.Params.model_validate({}), LocalEngine(tmp_path / "run")
    text, other = corpus()[0], corpus()[0][::-1]
    text_files.write(path, [pa.array([text, text], pa.large_string())])
    arguments = path, params, 1 << 30, lambda _: None
    assert out_of_core.connect(engine, *arguments).tolist() == [0, 0]
    text_files.write(path, [pa.array([text, other], pa.large_string())])
    assert out_of_core.connect(engine, *arguments).tolist() == [0, 1]


class Crashing(LocalEngine):
    """An engine whose tasks end their workers in every attempt."""

    def _outcomes(self, tasks: list[Task]) -> Generator[Part | Crash, None, None]:
        for task in tasks:
            yield Crash(task.key, "its worker process ended with exit code -9")


def test_a_part_of_the_graph_that_fails_is_no_result(tmp_path: Path) -> None:
    """Without the edges of one partition, components would be divided."""
    edges = LocalEngine(tmp_path).run("edges", ["a"], write_edges, {"a": {"edges": [(1, 2)], "bits": 0}})
    with pytest.raises(BadInput, match=r"failed in every attempt \(00000: its worker"):
        stars.components(Crashing(tmp_path), edges, 0)
