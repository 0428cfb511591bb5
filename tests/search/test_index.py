"""A search names the record, its source, and why it was dropped."""

from pathlib import Path

import pyarrow as pa
import pytest

from tasks import tables
from tasks.conversations import CONVERSATIONS
from tasks.documents import SCHEMA
from tasks.errors import BadInput
from tasks.search import index, tasks

ORIGIN = {"source": "web", "group": "g", "split": "train", "metadata": "{}"}
DROPPED = pa.schema([*SCHEMA, pa.field("reason", pa.string()), pa.field("duplicate_of", pa.string())])


def write(data: Path) -> None:
    documents = [
        {"id": "web/1", "text": "The quick  brown fox\njumps over the lazy dog.", **ORIGIN},
        {"id": "web/2", "text": "今天天气很好，我们去公园散步。", **ORIGIN},
    ]
    copy = {**documents[0], "id": "web/3", "reason": "minhash.duplicate", "duplicate_of": "web/1"}
    chat = {"id": "web/4", "messages": [{"role": "user", "content": "Where does the fox live?"}], **ORIGIN}
    tables.write(data / "curated", SCHEMA, [pa.Table.from_pylist(documents, SCHEMA)])
    tables.write(data / "dropped", DROPPED, [pa.Table.from_pylist([copy], DROPPED)])
    tables.write(data / "conversations/curated", CONVERSATIONS, [pa.Table.from_pylist([chat], CONVERSATIONS)])


def test_records_with_most_passages_come_first(tmp_path: Path) -> None:
    """The query has 5 passages; web/1 and its copy contain them all, the conversation none."""
    write(tmp_path)
    hits = tasks.search("quick brown fox jumps over the", 10, tmp_path, tmp_path / "index")
    assert [(hit.id, hit.share, hit.reason) for hit in hits] == [
        ("web/1", 1.0, ""), ("web/3", 1.0, "minhash.duplicate of web/1"),
    ]  # fmt: skip
    assert "brown fox jumps" in hits[0].text
    (chinese,) = tasks.search("我们去公园", 10, tmp_path, tmp_path / "index")
    assert (chinese.kind, chinese.id, chinese.source) == ("document", "web/2", "web")
    (chat,) = tasks.search("fox live?", 10, tmp_path, tmp_path / "index")
    assert chat.kind == "conversation"
    assert not tasks.search("nothing like this", 10, tmp_path, tmp_path / "index")
    assert "dropped: minhash.duplicate of web/1" in tasks.describe(hits)


def test_the_index_is_renewed_with_the_data(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no curated data"):
        index.build(tmp_path, tmp_path / "index")
    write(tmp_path)
    first = index.build(tmp_path, tmp_path / "index")
    assert index.build(tmp_path, tmp_path / "index") == first
    assert first.stat().st_mode & 0o777 == 0o600
    tables.write(tmp_path / "curated", SCHEMA, [SCHEMA.empty_table()])
    assert index.build(tmp_path, tmp_path / "index") != first
    assert not first.exists()


def test_a_short_query_is_refused() -> None:
    with pytest.raises(BadInput, match="at least 3 characters"):
        index.passages_of("a ")
    assert index.passages_of("abc") == ["abc"]
    assert index.passages_of("abcdefghijklmnop") == ["abcdefghijkl", "ghijklmnop"]
