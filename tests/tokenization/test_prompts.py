"""Prompts that occur again are kept once, with the metadata of the first that has a reference."""

from pathlib import Path
from typing import Any

from tasks.conversations import Message
from tasks.tokenization.prompts import DistinctPrompts, Prompt


def prompt(text: str, source: str, **metadata: Any) -> Prompt:
    messages: list[Message] = [{"role": "user", "content": text}]
    return messages, metadata, source


def test_each_prompt_is_kept_once_with_a_reference_if_there_is_one(tmp_path: Path) -> None:
    """a: the second has the first reference. b: no reference. c: the first has one already."""
    prompts = DistinctPrompts(tmp_path)
    rows = [
        prompt("a", "one", number=1),
        prompt("b", "one", number=2),
        prompt("a", "two", number=3, reference="the first"),
        prompt("c", "two", number=4, reference="of c"),
        prompt("a", "three", number=5, reference="the second"),
        prompt("b", "three", number=6),
        prompt("c", "one", number=7, reference="another"),
    ]
    assert [messages[0]["content"] for messages in prompts.add(rows)] == ["a", "b", "c"]
    assert [metadata["number"] for metadata in prompts.metadata()] == [3, 2, 4]
    assert prompts.sources == ["two", "one", "two"]
    assert len(prompts) == 3
    prompts.close()
    assert not list(tmp_path.iterdir())
