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


CHINESE = "图书馆每天早上八点开门，读者可以借阅小说和历史书籍。"
ENGLISH = "The library opens at eight every morning, and readers may borrow novels."


@pytest.mark.parametrize(
    ("lines", "per"),
    [
        pytest.param([f"{CHINESE}{n}。" for n in range(4000)], "line", id="a Chinese sentence per line"),
        pytest.param([f"{ENGLISH} " * 4 + str(n) for n in range(1000)], "line", id="long lines without an end"),
        pytest.param([f"{ENGLISH} " * 100] * 20 + [""], "line", id="few long lines and an empty one at the end"),
        pytest.param([ENGLISH, "and so on", ""] * 2000, "paragraph", id="blank lines between paragraphs"),
        pytest.param(["of a line that an editor has broken"] * 5000, "file", id="broken lines without blank ones"),
        pytest.param([ENGLISH] * 100, "file", id="a short file"),
    ],
)
def test_long_texts_are_divided_into_documents(folder: Path, lines: list[str], per: str) -> None:
    Path("long.txt").write_text("\n".join(lines), encoding="utf-8")
    (proposal,) = preview.preview(["long.txt"]).proposals
    assert proposal.settings == ({} if per == "file" else {"per": per})
    assert any(f"per: {per}" in warning for warning in proposal.warnings) == (per != "file")


def test_tables_without_a_header_are_documents_whatever_their_ending_is(folder: Path) -> None:
    rows = [f"{n % 2}\t第{n}本书很好看，我推荐大家都来读一读。" for n in range(30)]
    for name in ("reviews.txt", "more.tsv"):
        Path(name).write_text("\n".join(rows), encoding="utf-8")
        (proposal,) = preview.preview([name]).proposals
        assert (proposal.source, proposal.settings["column_names"]) == ("csv", ["label", "text"])
        assert "The first line is no header" in proposal.warnings[0]
    ingest(yaml.safe_load(preview.preview(["reviews.txt"]).paragraph)["ingestion"]["sources"])
    counts = read_json(Path("data/reports/ingestion.json"))["counts"]
    assert (counts["documents"], counts["quarantined"]) == (30, 0)


def test_prompts_and_answers_between_tabs_remain_conversations(folder: Path) -> None:
    Path("chats.txt").write_text("\n".join(f"Question {n}?\tAnswer {n}." for n in range(30)))
    (proposal,) = preview.preview(["chats.txt"]).proposals
    assert (proposal.source, proposal.settings) == ("text", {"kind": "conversations"})


def test_a_file_that_another_source_reads_is_not_read_twice(folder: Path) -> None:
    Path("mixed").mkdir()
    Path("mixed/a.txt").write_text("One text.")
    Path("mixed/labels.txt").write_text("\n".join(f"{n % 2}\tThe text of the row {n}, long enough." for n in range(30)))
    Path("mixed/lines").write_text(json.dumps(PAIR))  # recognized by its content; a folder's source would not find it
    paths = {p.source: p.paths for p in preview.preview(["mixed"]).proposals}
    assert paths == {"text": ["mixed/a.txt"], "csv": ["mixed/labels.txt"], "jsonl": ["mixed/lines"]}


def test_a_file_of_which_nothing_is_kept_is_not_in_the_paragraph(folder: Path) -> None:
    Path("mixed").mkdir()
    Path("mixed/good.jsonl").write_text(json.dumps(PAIR))
    Path("mixed/bad.jsonl").write_text(json.dumps({"prompt": "Why?", "first": "Yes.", "second": "No.", "verdict": "x"}))
    text = preview.preview(["mixed"]).paragraph
    assert "mixed/good.jsonl" in text
    assert "bad" not in text


def test_a_column_of_short_chinese_texts_is_found(folder: Path) -> None:
    Path("food.csv").write_text("label,review\n" + "1,很快，好吃，味道足。\n" * 20, encoding="utf-8")
    (proposal,) = preview.preview(["food.csv"]).proposals
    assert proposal.settings == {"fields": {"text": "review"}}
