"""Ingestion on the engine: the same bytes as in this process, for any number of workers."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.documents import Document
from tasks.engine import local_engine, settings
from tasks.engine.engine import Engine
from tasks.engine.local_engine import LocalEngine
from tasks.errors import BadInput, NothingLeft
from tasks.files import read_json
from tasks.ingestion import read_counts
from tasks.ingestion.division import file_stage, record_files
from tasks.ingestion.opening import find_files
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.sources import parquet
from tests.ingestion.division import fragile
from tests.ingestion.test_tasks import ingest

WORKERS = [0, pytest.param(2, marks=pytest.mark.slow)]
TALK = [
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]},
    {"prompt": "q", "completion": "Zürich", "note": 1},
    {"prompt": "no answer"},
]
LABELED = [{"prompt": "q", "completion": text, "label": text == "good"} for text in ("bad", "good", "worse")]


def json_lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def make_files(folder: Path) -> None:
    """Write files of all formats: valid, damaged, empty, compressed, in archives, and with ids that occur twice."""
    for name in ("lines", "mixed", "talk", "taste"):
        (folder / name).mkdir(parents=True)
    texts = [{"text": f"Text {n} 文", "id": n % 3, "extra": 2**70, "metadata": {"x": [n, None, 1.5]}} for n in range(9)]
    (folder / "lines/a.jsonl").write_bytes(json_lines(texts) + b"\n{broken\n\xff\xfe\n")
    (folder / "lines/b.jsonl").write_bytes(b"")
    (folder / "lines/c.jsonl.gz").write_bytes(gzip.compress(json_lines(texts[:4])))
    (folder / "lines/d.jsonl.gz").write_bytes(gzip.compress(json_lines(texts * 50))[:-30])
    (folder / "lines/e.json").write_bytes(json.dumps(texts).encode())
    (folder / "lines/link.jsonl").symlink_to(folder / "nowhere")
    (folder / "lines/other.xyz").write_bytes(b"not read")
    with zipfile.ZipFile(folder / "lines/f.zip", "w") as archive:
        archive.writestr("inner.jsonl", json_lines(texts[:2]))
        archive.writestr("picture.png", b"")
    rows = [{"text": f"row {n}", "unused": n} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "mixed/a.parquet", row_group_size=10)
    (folder / "mixed/b.parquet").write_bytes(b"PAR1 damaged")
    (folder / "mixed/a.csv").write_text('text,unused\none,1\n"two\nlines",2\nthree\n')
    (folder / "mixed/a.txt").write_text("one\ntwo\n\nthree\n" * 30)
    (folder / "mixed/a.md").write_text("---\ntitle: T\n---\n# Heading\nText")
    (folder / "mixed/a.html").write_text(f"<html><body><p>{'A sentence of the page. ' * 30}</p></body></html>")
    (folder / "talk/a.jsonl").write_bytes(json_lines(TALK))
    (folder / "taste/a.jsonl").write_bytes(json_lines([LABELED[0], {"prompt": "q", "answers": ["a", "b", "c"]}]))
    (folder / "taste/b.jsonl").write_bytes(json_lines(LABELED[1:]))


def sources() -> dict[str, Any]:
    mixed = {name: {"paths": "raw/mixed"} for name in ("parquet", "csv", "text", "markdown", "html")}
    return {
        "my lines": {"source": "jsonl", "paths": ["raw/lines", "raw/lines/a.jsonl"]},
        **mixed,
        "text": {"paths": "raw/mixed", "per": "paragraph", "group_by": "file"},
        "each line": {"source": "text", "paths": "raw/mixed", "per": "line"},
        "talk": {"source": "jsonl", "paths": "raw/talk/*.jsonl", "kind": "conversations"},
        "taste": {"source": "jsonl", "paths": "raw/taste", "kind": "preferences"},
        "numbers": {"num_conversations": 30, "num_preferences": 4},
    }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path / "raw")
    return tmp_path


def use_engine(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """Let the stages of `engine: ray` run on the local engine."""

    def make_engine(folder: Path, _workers: int) -> Engine:
        return LocalEngine(folder, workers)

    monkeypatch.setenv(settings.ENGINE, "ray")
    monkeypatch.setattr(settings, "make_engine", make_engine)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def counted(find_ranges: Any, num_ranges: dict[str, int]) -> Any:
    """Note how many ranges each file has that is larger than a task."""

    def wrapped(*arguments: Any) -> Any:
        ranges = find_ranges(*arguments)
        num_ranges.update({arguments[3][number]["name"]: len(found) for number, found in ranges.items()})
        return ranges

    return wrapped


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("task_bytes", [150, 1 << 20])
def test_the_engine_writes_the_same_bytes(
    world: Path, monkeypatch: pytest.MonkeyPatch, workers: int, task_bytes: int
) -> None:
    ingest(sources(), Path("local"))
    use_engine(monkeypatch, workers)
    monkeypatch.setattr(file_stage, "TASK_BYTES", task_bytes)
    ranges = dict[str, int]()
    monkeypatch.setattr(file_stage, "_find_ranges", counted(file_stage._find_ranges, ranges))
    ingest(sources(), Path("engine"))
    assert contents(Path("engine")) == contents(Path("local"))
    divided = {"lines/a.jsonl", "mixed/a.parquet", "mixed/a.txt", "talk/a.jsonl"}
    assert set(ranges) == ({f"raw/{name}" for name in divided} if task_bytes == 150 else set())
    counts = read_json(Path("local/reports/ingestion.json"))["counts"]
    assert min(counts["documents"], counts["conversations"], counts["preferences"], counts["quarantined"]) > 2
    assert not list(Path(".run").glob("*"))


def test_errors_of_a_source_are_those_of_this_process(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"mine": {"source": "jsonl", "paths": "raw/talk"}}
    with pytest.raises(NothingLeft) as local:
        ingest(source, Path("local"))
    use_engine(monkeypatch, 0)
    with pytest.raises(NothingLeft) as remote:
        ingest(source, Path("engine"))
    assert str(remote.value) == str(local.value)
    assert contents(Path("engine")) == contents(Path("local"))
    with pytest.raises(BadInput, match=r"raw/e\.jsonl does not exist"):
        ingest({"mine": {"source": "jsonl", "paths": "raw/e.jsonl"}}, Path("engine"))


def test_a_file_that_ends_its_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task reads the three files; then each file has its own, so that only one is refused."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("fatal" if name == "b" else name)
    monkeypatch.setattr(local_engine, "MAX_ATTEMPTS", 1)
    params = fragile.Params(paths=(str(tmp_path),))
    with (
        LocalEngine(tmp_path / "run", 1) as engine,
        pytest.raises(BadInput, match=r"the records of \S*/b\.txt would be lost.*exit code 9"),
    ):
        list(file_stage.read_on(engine, "s", fragile, params, ReadCounts()))
    (tmp_path / "b.txt").write_text("other")
    counts = ReadCounts()
    with LocalEngine(tmp_path / "run") as engine:
        records = list(file_stage.read_on(engine, "s", fragile, params, counts))
    assert [record.text for record in records if isinstance(record, Document)] == ["a", "other", "c"]
    assert counts.rows.total() == 3


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def read() -> list[Any]:
        params = fragile.Params(paths=(str(path),))
        return list(file_stage.read_on(LocalEngine(tmp_path / "run"), "s", fragile, params, ReadCounts()))

    path.write_text("first")
    first = read()
    path.write_text("the second")
    assert ([r.text for r in first], [r.text for r in read()]) == (["first"], ["the second"])


def test_files_that_only_the_driver_can_open_are_read_in_their_place(tmp_path: Path) -> None:
    """The link leads nowhere: the driver yields it between the files that tasks read."""
    for name in ("a", "c", "d"):
        (tmp_path / f"{name}.txt").write_text("" if name == "c" else name)
    (tmp_path / "b.txt").symlink_to(tmp_path / "nowhere")
    params = fragile.Params(paths=(str(tmp_path),))
    records = list(file_stage.read_on(LocalEngine(tmp_path / "run"), "s", fragile, params, ReadCounts()))
    assert [Path(getattr(r, "id", "") or getattr(r, "file", "")).name for r in records] == [
        "a.txt",
        "b.txt",
        "c.txt",
        "d.txt",
    ]


def test_records_of_all_kinds_come_back(tmp_path: Path) -> None:
    """Half of a surrogate pair, a large number and nested metadata are as before."""
    document = Document(
        "1", "文\ud800", "g", {"n": 2**70, "list": [1, None, {"x": 1.5}]}, "test", {"c": 2}, ("f",), "F"
    )
    assert record_files.write(tmp_path / "r", [document, Document("2", "", "")]) == 2
    first, second = record_files.read(tmp_path / "r")
    assert (first, second) == (document, Document("2", "", ""))
    assert isinstance(first, Document)
    assert (first.rows, first.format) == (("f",), "F")


def test_columns_beyond_the_limit_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_counts, "MAX_COLUMNS", 3)
    whole, first, second, merged = (ReadCounts() for _ in range(4))
    for half, names in ((first, "ab"), (first, "bc"), (second, "cd"), (second, "de")):
        for counts in (whole, half):
            counts.add_unused_columns("f", frozenset(names))
    merged.merge(first.of_files())
    merged.merge(second.of_files())
    assert merged.unused_columns() == whole.unused_columns()
    assert whole.unused_columns() == {("f", "a"): 1, ("f", "b"): 2, ("f", "c"): 2, ("f", "(other columns)"): 3}


def test_row_groups_are_divided_by_their_size(world: Path) -> None:
    """Three row groups of ten rows; a third of the file is a little more than the average group."""
    file, params = find_files(["raw/mixed/a.parquet"], parquet.SUFFIXES)[0], parquet.Params(paths=("file",))
    size = Path("raw/mixed/a.parquet").stat().st_size
    assert parquet.divide(file, params, 1) == [(0, 1, 1), (1, 2, 11), (2, 3, 21)]
    assert parquet.divide(file, params, size * 3 // 4) == [(0, 2, 1), (2, 3, 21)]
    assert parquet.divide(file, params, size + 1) == []
