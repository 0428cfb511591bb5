"""The preview proposes a source for each file, and its paragraph of params.yaml is valid and reads the files."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import preview as command
from tasks.errors import BadInput
from tasks.files import read_json
from tasks.ingestion import preview
from tests.ingestion.test_tasks import ingest

ALPACA = {"instruction": "Name a color.", "input": "", "output": "Red.", "row": 1}
PAIR = {"prompt": "Name a color.", "chosen": "Red.", "rejected": "Monday."}
STORY = {"story": "It was a quiet morning in the harbor, and nobody expected the ship.", "site": "a"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows: dict[str, Any] = {"chats.jsonl": [ALPACA] * 3, "pairs.jsonl": [PAIR] * 3, "stories.jsonl": [STORY] * 2}
    Path("raw").mkdir()
    for name, objects in rows.items():
        Path("raw", name).write_text("\n".join(map(json.dumps, objects)))
    Path("raw/note.md").write_text("# Title\n\nA text.")
    Path("raw/list.json").write_text(json.dumps({"items": [{"text": "one"}, {"text": "two"}]}))
    Path("raw/photo.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with zipfile.ZipFile("raw/pages.zip", "w") as archive:
        archive.writestr("a.txt", "A text in an archive.")
    return tmp_path


def test_each_file_is_recognized(folder: Path) -> None:
    result = preview.preview(["raw"])
    found = {p.name: (p.source, p.settings) for p in result.proposals}
    assert found == {
        "chats": ("jsonl", {"kind": "conversations"}),
        "list": ("jsonl", {"records": "items"}),
        "pairs": ("jsonl", {"kind": "preferences"}),
        "stories": ("jsonl", {"fields": {"text": "story"}}),
        "raw_markdown": ("markdown", {}),
        "raw_text": ("text", {}),
    }
    assert result.not_read == {"raw/photo.png": "This is a PNG image; only text is read."}
    bodies = {body["name"]: body for body in result.body()["sources"]}
    assert bodies["chats"]["unused_columns"] == ["row"]
    assert bodies["chats"]["formats"] == {"Alpaca": 3}
    assert bodies["stories"]["warnings"] == [
        "No usual column was recognized; the column 'story' has the longest texts. Check it."
    ]


def test_the_paragraph_can_be_ingested(folder: Path) -> None:
    sources = yaml.safe_load(preview.preview(["raw"]).paragraph)["ingestion"]["sources"]
    ingest(sources)
    counts = read_json(Path("data/reports/ingestion.json"))["counts"]
    expected = {"documents": 6, "conversations": 3, "preferences": 3, "quarantined": 0}
    assert {name: counts[name] for name in expected} == expected


def test_a_folder_of_one_format_is_named_as_a_whole(folder: Path) -> None:
    Path("more").mkdir()
    for name in ("a", "b"):
        Path(f"more/{name}.jsonl").write_text(json.dumps(ALPACA))
    (proposal,) = preview.preview(["more"]).proposals
    assert (proposal.name, proposal.paths, proposal.num_files) == ("more", ["more"], 2)


def test_an_unknown_format_is_not_guessed(folder: Path) -> None:
    row = {"a long answer": "Yes, of course. " * 3, "another answer": "No, never at all. " * 3, "verdict": 2}
    Path("odd.jsonl").write_text(json.dumps(row))
    (proposal,) = preview.preview(["odd.jsonl"]).proposals
    assert proposal.reading.num_kept == 0
    with pytest.raises(BadInput, match=r"Nothing can be read from odd\.jsonl\. .* a long answer, another answer"):
        command.show(["odd.jsonl"], as_json=False)


def test_the_command_prints_text_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.show(["raw/pairs.jsonl"], as_json=False)
    text = capsys.readouterr().out
    assert "pairs: 1 file read by `jsonl` as preferences (chosen and rejected), 3 of the first 3 rows kept" in text
    assert "kind: preferences" in text
    command.show(["raw/pairs.jsonl"], as_json=True)
    body = json.loads(capsys.readouterr().out)
    assert set(body) == {"sources", "not_read", "params"}
