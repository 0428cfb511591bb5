"""A removed record does not come back: under another id, in another spelling, or from another table."""

from pathlib import Path

import pytest

from tasks.conversations import Conversation
from tasks.documents import Document
from tasks.errors import BadInput
from tasks.ingestion import record_writer
from tasks.ingestion.removal import removals


def write(data: Path, *documents: Document) -> record_writer.RecordWriter:
    with record_writer.RecordWriter(data, lambda _: "train") as writer:
        for document in documents:
            writer.add("web", document)
        writer.add("web", Conversation("c", [{"role": "user", "content": "Who is Ann?"}], "g", rows=("b.jsonl",)))
    return writer


def test_a_removed_text_stays_removed_under_another_id_and_spelling(tmp_path: Path) -> None:
    write(tmp_path, Document("1", "Ann Smith lives here.", "g", rows=("a.txt",)), Document("2", "Other.", "g"))
    (match,) = removals.find(tmp_path, matching="ann  SMITH")
    assert (match.kind, match.id, match.split) == ("document", "web/1", "train")
    assert removals.add(tmp_path, [match], with_ids=False) == 1
    assert removals.add(tmp_path, [match], with_ids=False) == 0
    assert "Smith" not in (tmp_path / removals.FILE).read_text()
    writer = write(
        tmp_path, Document("9", "Ａnn Smith\nlives HERE.", "g", rows=("a.txt",)), Document("2", "Other.", "g")
    )
    assert writer.num_by_reason == {("web", "removed"): 1}
    assert writer.num_records["web", "documents"] == 1
    assert not list(removals.find(tmp_path, matching="ann smith"))


def test_an_id_removes_a_record_whose_text_has_changed(tmp_path: Path) -> None:
    write(tmp_path, Document("1", "First version.", "g"))
    removals.add(tmp_path, list(removals.find(tmp_path, record_id="web/1")), with_ids=True)
    writer = write(tmp_path, Document("1", "Second version.", "g"), Document("3", "Third.", "g", rows=()))
    assert writer.num_records["web", "documents"] == 1
    (conversation,) = removals.find(tmp_path, matching="who is ann")
    assert conversation.kind == "conversation"


def test_a_damaged_list_ends_ingestion(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / removals.FILE).write_text("{}")
    with pytest.raises(BadInput, match="removed records would come back"):
        removals.read(tmp_path)
    with pytest.raises(BadInput, match="is empty"):
        list(removals.find(tmp_path, matching=" "))
