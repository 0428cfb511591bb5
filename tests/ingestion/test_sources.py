"""The sources for users' own files on small files with known content, local and behind a network that fails."""

import gzip
import time
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pytest

from tasks.conversations import Conversation, Preference
from tasks.documents import Document
from tasks.errors import BadInput
from tasks.ingestion import opening, splits
from tasks.ingestion.sources import csv, html, hub, jsonl, markdown, parquet, text, warc
from tests.ingestion.world import outcome


def texts(source: Any, **params: Any) -> list[str]:
    kept, reasons = outcome(list(source.read(source.Params(**params))))
    assert reasons == []
    return kept


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/2.jsonl").write_text('{"text": "two"}')
    (tmp_path / "b/c/3.JSONL.gz").write_bytes(gzip.compress(b'{"text": "three"}'))
    (tmp_path / "1.jsonl").write_text('{"text": "one"}')
    (tmp_path / ".hidden.jsonl").write_text('{"text": "hidden"}')
    (tmp_path / "notes.txt").write_text("a note")
    return tmp_path


def test_files_folders_and_globs(folder: Path) -> None:
    assert texts(jsonl, paths=str(folder)) == ["one", "two", "three"]
    assert texts(jsonl, paths=[str(folder / "b"), str(folder / "1.jsonl")]) == ["two", "three", "one"]
    assert texts(jsonl, paths=f"{folder}/*.jsonl") == ["one"]
    assert texts(jsonl, paths=f"{folder}/**/*.jsonl") == ["one", "two"]
    assert texts(jsonl, paths=[f"{folder}/1.jsonl", f"{folder}/*.jsonl"]) == ["one"]


def test_a_glob_matches_folders_but_not_what_dvc_writes_beside_them(folder: Path) -> None:
    """The paths of deliveries, data/raw/delivery-*, match folders and files such as delivery-0001.dvc."""
    (folder / "b.dvc").write_text("outs: []")
    (folder / "b/2.jsonl.dvc").write_text("outs: []")
    assert texts(jsonl, paths=f"{folder}/b*") == ["two", "three"]
    memory = fsspec.filesystem("memory")
    memory.pipe("/parts/part-1/a.jsonl", b'{"text": "one"}')
    assert texts(jsonl, paths="memory://parts/part-*") == ["one"]


@pytest.mark.parametrize("path", ["nowhere", "nowhere/*.jsonl", "b/c/*.txt"])
def test_a_path_to_nothing_is_named(folder: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(BadInput, match=r"nowhere|b/c"):
        texts(jsonl, paths=path)


class _Flaky:
    """A file that fails at every other read."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.reads = inner, 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if self.reads == 2:
            raise ConnectionResetError("the network is gone")
        return bytes(self.inner.read(min(size, 7)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_remote_files_survive_a_failing_network(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/world/a.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    opened = type(memory).open
    monkeypatch.setattr(type(memory), "open", lambda self, *a, **k: _Flaky(opened(self, *a, **k)))
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    for path in ("memory://world/a.jsonl", "memory://world", "memory://world/*.jsonl"):
        assert texts(jsonl, paths=path) == ["one", "two"]
    assert len(waits) >= 9
    with pytest.raises(BadInput, match="memory://world/b does not exist"):
        texts(jsonl, paths="memory://world/b")


def test_only_the_network_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def fail(error: Exception) -> None:
        calls.append(1)
        raise error

    for error, kind, num_calls in (
        (FileNotFoundError("x"), FileNotFoundError, 1),
        (PermissionError("x"), PermissionError, 1),
        (KeyError("x"), KeyError, 1),
        (TimeoutError("x"), BadInput, opening.MAX_ATTEMPTS),
    ):
        calls.clear()
        with pytest.raises(kind):
            opening.retry(lambda error=error: fail(error), "x")  # type: ignore[misc]
        assert len(calls) == num_calls


def test_text_by_file_paragraph_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    assert texts(text, paths=str(tmp_path)) == ["one\ntwo\n\n\nthree\n"]
    assert texts(text, paths=str(tmp_path), per="paragraph") == ["one\ntwo", "three"]
    assert texts(text, paths=str(tmp_path), per="line") == ["one", "two", "three"]


def test_text_with_separators(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("q\ta\tb\tignored\n")
    conversation, pair = (
        next(iter(text.read(text.Params(paths=str(tmp_path), kind=kind)))) for kind in ("conversations", "preferences")
    )
    assert isinstance(conversation, Conversation)
    assert [m["content"] for m in conversation.messages] == ["q", "a"]
    assert isinstance(pair, Preference)
    assert (pair.prompt[0]["content"], pair.chosen, pair.rejected) == ("q", "a", "b")


def test_markdown_keeps_the_text_and_takes_the_front_matter(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text('---\ntitle: "A title"\ntags: [x]\n---\n\n# Head\n\n- one\n')
    (tmp_path / "b.md").write_text("# Head #\n\nbody")
    first, second = markdown.read(markdown.Params(paths=str(tmp_path)))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.text, first.metadata) == ("# Head\n\n- one\n", {"title": "A title", "tags": "[x]"})
    assert second.metadata == {"title": "Head"}


def test_csv_for_conversations(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('instruction\tinput\toutput\nq\t\t"a\nb"\n')
    (conversation,) = csv.read(csv.Params(paths=str(tmp_path), kind="conversations"))
    assert isinstance(conversation, Conversation)
    assert [m["content"] for m in conversation.messages] == ["q", "a\nb"]


WORDS = "四月的北京，春风和煦，公园里的桃花开了，许多人带着孩子来看花，老人们坐在长椅上聊天，到处都是欢声笑语。"
PAGE = (
    f"<html><head><title>春天</title>%s</head><body><nav>首页</nav><article><p>{WORDS * 3}</p></article></body></html>"
)


@pytest.mark.parametrize(("encoding", "head"), [("utf-8", ""), ("gb18030", ""), ("gb18030", '<meta charset="gb2312">')])
def test_html_in_its_encoding(encoding: str, head: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes((PAGE % head).encode(encoding))
    (page,) = html.read(html.Params(paths=str(tmp_path)))
    assert isinstance(page, Document)
    assert page.text == WORDS * 3
    assert page.metadata["title"] == "春天"


def archived(kind: str, content: bytes, length: int) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.org/x\r\nContent-Length: {length}\r\n"
    return (head + "Content-Type: application/http; msgtype=response\r\n\r\n").encode() + content + b"\r\n\r\n"


def test_warc_responses_as_the_server_sent_them(tmp_path: Path) -> None:
    """Compressed, and in chunks: one of the whole page, one that ends."""
    body = gzip.compress((PAGE % "").encode("gb18030"), mtime=0)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=GBK\r\nContent-Encoding: gzip\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    response = head + chunked
    record = archived("response", response, len(response))
    (tmp_path / "a.warc.gz").write_bytes(gzip.compress(record) + gzip.compress(record))
    first, second = warc.read(warc.Params(paths=str(tmp_path)))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert (first.text, first.group, first.metadata["url"]) == (WORDS * 3, "a.org", "http://a.org/x")
    assert first.id != second.id


ROWS = {"text": ["one", "two", None], "id": [1, 2, 3]}


def test_hub_reads_what_was_saved(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    saved = datasets.Dataset.from_dict(ROWS)
    saved.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"dev": saved}).save_to_disk(str(tmp_path / "split"))
    for params in ({"name": str(tmp_path / "plain")}, {"name": str(tmp_path / "split"), "part": "dev"}):
        assert outcome(list(hub.read(hub.Params(**params)))) == (["one", "two"], ["missing_field"])
    with pytest.raises(BadInput, match="no part 'train'; available: dev"):
        list(hub.read(hub.Params(name=str(tmp_path / "split"))))


def test_hub_reads_a_folder_of_data_files(folder: Path) -> None:
    assert texts(hub, name=str(folder)) == ["one", "two", "three", "a note"]
    assert texts(hub, name=str(folder), max_records=2) == ["one", "two"]
    (folder / "empty").mkdir()
    with pytest.raises(BadInput, match="contains no data"):
        texts(hub, name=str(folder / "empty"))


def test_hub_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {}

    def load(path: str, **selection: Any) -> Any:
        arguments.update(selection, path=path)
        dataset = datasets.Dataset.from_dict({"text": ["one", "two"]})
        return dataset.to_iterable_dataset() if selection["streaming"] else dataset

    monkeypatch.setattr(datasets, "load_dataset", load)
    for streaming in (True, False):
        assert texts(hub, name="some/set", config="en", part="validation", streaming=streaming) == ["one", "two"]
    assert arguments == {"path": "some/set", "name": "en", "split": "validation", "revision": None, "streaming": False}


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: str, **_: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(BadInput, match="'some/set' cannot be read: no route to host"):
        texts(hub, name="some/set")


def test_parquet_reads_only_the_columns_that_are_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"body": ["one"], "when": [3], "other": [4]}), tmp_path / "a.parquet")
    params = parquet.Params(paths=str(tmp_path), fields={"text": "body"}, metadata=("when",))
    assert list(parquet.read(params)) == [
        Document(f"{tmp_path}/a.parquet:1", "one", splits.text_group("one"), {"when": 3})
    ]
