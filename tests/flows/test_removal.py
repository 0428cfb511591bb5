"""The command names the models that have seen a record, and lists the record only after --yes."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from flows import removal
from flows.runtime import artifact_checks, tracked_runs, versioning
from flows.versions import contents
from tasks import tables
from tasks.documents import SCHEMA
from tasks.errors import BadInput
from tasks.ingestion.removal import removals

ROWS = [
    {"id": "web/1", "text": "Ann lives here.", "source": "web", "group": "g", "split": "train", "metadata": "{}"},
    {"id": "web/2", "text": "Ann is away.", "source": "web", "group": "g", "split": "test", "metadata": "{}"},
    {"id": "web/3", "text": "Ann? Too short.", "source": "web", "group": "g", "split": "train", "metadata": "{}"},
]


def test_models_that_have_seen_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """web/2 is in the test split and web/3 was dropped by curation: only web/1 was trained on."""
    monkeypatch.chdir(tmp_path)
    tables.write(Path("data/documents"), SCHEMA, [pa.Table.from_pylist(ROWS, SCHEMA)])
    tables.write(Path("data/curated"), SCHEMA, [pa.Table.from_pylist(ROWS[:2], SCHEMA)])
    monkeypatch.setattr(contents, "models_trained_on", lambda path: ["pretrain", "sft"] if "doc" in path else [])
    monkeypatch.setattr(artifact_checks, "locked_hash", lambda lock, path: "abc")
    monkeypatch.setattr(versioning, "stale", lambda: ["ingestion"])
    monkeypatch.setattr(tracked_runs, "models_made_from", lambda path, md5: ["sft/3"])
    removal.remove(None, "ann", False, True)
    body = json.loads(capsys.readouterr().out)
    assert body["trained"] == ["web/1"]
    assert (body["models"], body["registered"]) == (["pretrain", "sft"], ["sft/3"])
    assert not removals.read(Path("data")).text_hashes
    assert removal.find("web/2", None)["models"] == []
    removal.remove("web/1", None, True, False)
    assert "Stale stages: ingestion" in capsys.readouterr().out
    assert removals.read(Path("data")).ids == {"web/1"}
    with pytest.raises(BadInput, match="No record"):
        removal.find("web/9", None)
