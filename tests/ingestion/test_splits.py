"""Splits depend on what a record says: another line, path, layout or answer moves nothing."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.conversations import Conversation
from tasks.documents import Document
from tasks.ingestion import splits
from tasks.ingestion.sources import csv, html, jsonl, markdown, parquet, text

PAGE = "<html><body><article><p>{}</p></article></body></html>"
TEXTS = [f"This is text number {i}, which says something about the town of the example library." for i in range(40)]


def groups(records: Any) -> dict[str, str]:
    """The group of each document or conversation by its text or first message."""
    return {
        record.text.strip() if isinstance(record, Document) else record.messages[0]["content"]: record.group
        for record in records
    }


def rows(path: Path, texts: list[str]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    return str(path)


def test_an_inserted_line_or_another_path_moves_nothing(tmp_path: Path) -> None:
    before = groups(jsonl.read(jsonl.Params(paths=rows(tmp_path / "a" / "one.jsonl", TEXTS))))
    after = groups(jsonl.read(jsonl.Params(paths=rows(tmp_path / "b" / "two.jsonl", ["new", *TEXTS[::-1]]))))
    assert len(set(before.values())) == 40
    assert {each: after[each] for each in TEXTS} == before


def test_another_export_moves_nothing(tmp_path: Path) -> None:
    expected = groups(jsonl.read(jsonl.Params(paths=rows(tmp_path / "one.jsonl", TEXTS))))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text\r\n" + "".join(f'"{each}"\r\n' for each in TEXTS))
    (tmp_path / "a.txt").write_text("\r\n".join(TEXTS))
    for number, each in enumerate(TEXTS):
        (tmp_path / f"{number}.md").write_text(f"{each}\n")
    assert groups(parquet.read(parquet.Params(paths=str(tmp_path / "a.parquet")))) == expected
    assert groups(csv.read(csv.Params(paths=str(tmp_path / "a.csv")))) == expected
    assert groups(text.read(text.Params(paths=str(tmp_path / "a.txt"), per="line"))) == expected
    assert groups(markdown.read(markdown.Params(paths=str(tmp_path)))) == expected


def test_a_web_page_is_grouped_by_its_text(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        (tmp_path / name).write_text(PAGE.format(TEXTS[0] * 5))
    first, second = html.read(html.Params(paths=str(tmp_path)))
    assert isinstance(first, Document)
    assert isinstance(second, Document)
    assert first.group == second.group


def test_the_names_of_folders_do_not_move_a_file(tmp_path: Path) -> None:
    params = [jsonl.Params(paths=rows(tmp_path / folder / "a.jsonl", TEXTS), group_by="file") for folder in "ab"]
    assert [set(groups(jsonl.read(each)).values()) for each in params] == [{"a.jsonl"}, {"a.jsonl"}]


def test_a_stated_field_replaces_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "uid": 7}\n{"text": "one, corrected", "uid": 7}\n')
    assert set(groups(jsonl.read(jsonl.Params(paths=str(path), fields={"group": "uid"}))).values()) == {"7"}


def message(content: str, role: str = "user") -> Any:
    return {"role": role, "content": content}


def test_records_with_the_same_prompt_share_a_group_whatever_the_answer_and_the_system_message(tmp_path: Path) -> None:
    question = "What does the example library charge for a lost book?"
    group = splits.prompt_group([message(question)])
    longer = [message("Be brief.", "system"), message(question.upper()), message("5", "assistant"), message("Why?")]
    assert splits.prompt_group(longer) == group
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"instruction": question, "output": answer}) + "\n" for answer in ("5", "five")))
    read = list(jsonl.read(jsonl.Params(paths=str(path), kind="conversations")))
    assert [each.group for each in read if isinstance(each, Conversation)] == [group, group]


def test_conversations_that_begin_with_a_greeting_are_not_all_one_group() -> None:
    prompts = [[message("hi"), message("Hello", "assistant"), message(each)] for each in TEXTS]
    assert len({splits.prompt_group(prompt) for prompt in prompts}) == len(TEXTS)
