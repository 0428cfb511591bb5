"""Conversations in the formats that public data sets have, and the rules for turns in another order."""

import json
from typing import Any

import pytest

from tasks.conversations import UNTRAINED, Conversation
from tasks.ingestion.decoding import Location
from tasks.ingestion.records import Record, RowParams, from_row
from tasks.tables import Quarantined


def read(row: dict[str, Any], **params: Any) -> Record:
    (record,) = from_row(row, Location("a.jsonl", 7), RowParams(kind="conversations", **params))
    return record


def turns(row: dict[str, Any], **params: Any) -> str:
    """The turns of a row as "u: question / a: answer"."""
    record = read(row, **params)
    assert isinstance(record, Conversation), record
    return " / ".join(f"{message['role'][0]}: {message['content']}" for message in record.messages)


def chat(*contents: Any, roles: str = "uauauaua", **keys: Any) -> dict[str, Any]:
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool", "d": "developer"}
    messages = [{"role": names[role], "content": content} for role, content in zip(roles, contents, strict=False)]
    return {"messages": messages, **keys}


FORMATS: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "q", "context": "facts", "response": "a"}, "u: q\n\nfacts / a: a"),  # Dolly
    ({"context": "facts", "question": "q", "answers": {"text": ["a", "a"]}}, "u: q\n\nfacts / a: a"),  # SQuAD
    ({"question": "q", "answer": "a"}, "u: q / a: a"),
    ({"Question": "q", "Answer ": "a"}, "u: q / a: a"),
    ({"query": "q", "response": "a", "history": []}, "u: q / a: a"),
    ({"input": "q", "output": "a"}, "u: q / a: a"),
    ({"input": "q", "target": "a"}, "u: q / a: a"),  # Firefly
    ({"system_prompt": "s", "question": "q", "response": "a"}, "s: s / u: q / a: a"),  # OpenOrca
    ({"instruction": "", "input": "q", "output": "a"}, "u: q / a: a"),
    ({"instruction": "sum", "input": [1, 2], "output": "3"}, "u: sum\n\n[1, 2] / a: 3"),
    ({"instruction": "double", "input": 21, "output": 42}, "u: double\n\n21 / a: 42"),
    ({"instruction": "q", "output": "b", "history": '[["p", "a"]]'}, "u: p / a: a / u: q / a: b"),
    ({"instruction": "q", "output": "b", "history": None}, "u: q / a: b"),
    ({"instruction": "q", "output": "b", "history": chat("p", "a")["messages"]}, "u: p / a: a / u: q / a: b"),
    ({"instruction": "q", "output": "b", "history": [["p", None]]}, "u: p\n\nq / a: b"),
    ({"instruction": "q", "prompt": "### q ###", "output": "a"}, "u: q / a: a"),  # the prompt is a template
    ({"prompt": "q", "messages": [], "completion": " a"}, "u: q / a: a"),
    ({"prompt": "[1, 2]", "completion": '{"a": 1}'}, 'u: [1, 2] / a: {"a": 1}'),
    ({"dialog": chat("q", "a")["messages"]}, "u: q / a: a"),
    ({"conversations": {"from": ["human", "gpt"], "value": ["q", "a"]}}, "u: q / a: a"),  # a Sequence of `datasets`
    ({"instruction": "q", "instances": [{"input": "", "output": "a"}]}, "u: q / a: a"),  # Self-Instruct
    (chat("q", "a", tools="[]"), "u: q / a: a"),
    (
        {"conversation": [{"human": "q", "assistant": "a"}, {"human": "p", "assistant": "b"}]},
        "u: q / a: a / u: p / a: b",
    ),
    ({"conversation": [{"assistant": "a", "human": "q"}]}, "u: q / a: a"),
    ({"messages": json.dumps(chat("q", "a")["messages"])}, "u: q / a: a"),
    (chat("q", "a", prompt="q", prompt_id="1"), "u: q / a: a"),  # UltraChat
    ({"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>"}, "u: q / a: a"),
    ({"text": "### Human: q\n### Assistant: a"}, "u: q / a: a"),
    ({"text": "\n\nHuman: q\n\nAssistant: a"}, "u: q / a: a"),
    ({"messages": [{"role": "User", "content": "q"}, {"role": "ASSISTANT ", "content": "a"}]}, "u: q / a: a"),
    ({"conversations": [{"from": "user", "value": "q"}, {"from": "bard", "value": "a"}]}, "u: q / a: a"),
    ({"messages": [{"role": "user", "content": "q", "from": None}, {"from": "gpt", "value": "a"}]}, "u: q / a: a"),
    (chat("be brief", "q", "a", roles="dua"), "s: be brief / u: q / a: a"),
    (chat("q", "a", system="s"), "s: s / u: q / a: a"),
    (chat("s", "q", "a", roles="sua", system="s"), "s: s / u: q / a: a"),
    (chat([{"type": "text", "text": "one."}, {"type": "text", "text": "two."}], "a"), "u: one.\ntwo. / a: a"),
    (chat([{"type": "text", "text": "q", "image": None}], "a"), "u: q / a: a"),
    (chat(["q", "p"], "a"), "u: q\np / a: a"),
    (chat({"content_type": "text", "parts": ["q"]}, "a"), "u: q / a: a"),  # an export of ChatGPT
    (
        {"messages": [{"author": {"role": "user"}, "content": "q"}, {"author": {"role": "assistant"}, "content": "a"}]},
        "u: q / a: a",
    ),
]


@pytest.mark.parametrize(("row", "expected"), FORMATS)
def test_formats(row: dict[str, Any], expected: str) -> None:
    assert turns(row) == expected


IMAGE = [{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "q"}]
REASONING = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": "r"}]}
RULES: list[tuple[str, dict[str, Any], str, str, str]] = [
    # the rule of params.turns, the row, its turns, an excerpt of what the report counts, the reason with `quarantine`
    ("empty", chat("", "q", "a", roles="sua"), "u: q / a: a", "an empty message (system)", "empty_text"),
    ("empty", chat("p", "", "q", "a"), "u: p\n\nq / a: a", "an empty message (assistant)", "empty_text"),
    ("second_system", chat("s", "t", "q", "a", roles="ssua"), "s: s\n\nt / u: q / a: a", "second system", "bad_roles"),
    (
        "late_system",
        chat("p", "b", "s", "q", "a", roles="uasua"),
        "u: p / a: b / u: s\n\nq / a: a",
        "after other messages is joined",
        "bad_roles",
    ),
    ("same_role", chat("p", "q", "a", roles="uua"), "u: p\n\nq / a: a", "of one role (user) are joined", "bad_roles"),
    ("same_role", chat("q", "a", "b", roles="uaa"), "u: q / a: a\n\nb", "of one role (assistant)", "bad_roles"),
    ("greeting", chat("hello", "q", "a", roles="aua"), "u: q / a: a", "before the first of the user", "bad_roles"),
    ("trailing_user", chat("q", "a", "thanks"), "u: q / a: a", "does not answer is dropped", "bad_roles"),
    ("parts", chat(IMAGE, "a"), "u: q / a: a", "not text (image_url) is dropped", "not_text"),
]


@pytest.mark.parametrize(("rule", "row", "expected", "change", "reason"), RULES)
def test_rules_for_turns_are_applied_and_counted(
    rule: str, row: dict[str, Any], expected: str, change: str, reason: str
) -> None:
    assert turns(row) == expected
    record = read(row)
    assert isinstance(record, Conversation)
    assert sum(count for words, count in record.changes.items() if change in words) == 1
    bad = read(row, turns={rule: "quarantine"})
    assert isinstance(bad, Quarantined)
    assert bad.reason == reason
    assert f"turns.{rule}" in bad.detail


def test_what_is_in_order_has_no_changes() -> None:
    record = read(chat("s", "q", "a", roles="sua"))
    assert isinstance(record, Conversation)
    assert record.changes == {}


def test_other_values_of_the_rules() -> None:
    assert turns(chat("s", "t", "q", "a", roles="ssua"), turns={"second_system": "drop"}) == "s: s / u: q / a: a"
    assert turns(chat("q", "a", "s", roles="uas"), turns={"late_system": "drop"}) == "u: q / a: a"
    assert turns(chat(IMAGE, "a"), turns={"parts": "placeholder"}) == "u: [image]\nq / a: a"
    assert turns(REASONING) == "u: q / a: a"
    assert turns(REASONING, turns={"reasoning": "keep"}) == "u: q / a: <think>\nr\n</think>\n\na"


CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALL_TEXT = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TOOLS_OPENAI = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "a"},
]
TOOLS_SHAREGPT = [
    {"from": "human", "value": "q"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
    {"from": "observation", "value": "3"},
    {"from": "gpt", "value": "a"},
]
TOOLS_ANTHROPIC = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": [{"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}]},
    {"role": "user", "content": [{"type": "tool_result", "content": "3"}]},
    {"role": "assistant", "content": "a"},
]


@pytest.mark.parametrize("messages", [TOOLS_OPENAI, TOOLS_SHAREGPT, TOOLS_ANTHROPIC])
def test_tool_calls_are_kept_as_text_dropped_or_quarantined(messages: list[Any]) -> None:
    result = "<tool_response>\n3\n</tool_response>"
    assert turns({"messages": messages}) == f"u: q / a: {CALL_TEXT} / u: {result} / a: a"
    assert turns({"messages": messages}, turns={"tools": "drop"}) == "u: q / a: a"
    record = read({"messages": messages}, turns={"tools": "drop"})
    assert isinstance(record, Conversation)
    assert record.changes == {"a tool call is dropped": 1, "the result of a tool is dropped": 1}
    bad = read({"messages": messages}, turns={"tools": "quarantine"})
    assert isinstance(bad, Quarantined)
    assert bad.reason == "tool_call"


def test_a_closing_tool_call_is_kept_and_the_definitions_of_tools_are_part_of_the_system_message() -> None:
    row = {
        "tools": [{"name": "weather"}],
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
        ],
    }
    tools = '<tools>\n[{"name": "weather"}]\n</tools>'
    assert turns(row) == f"s: {tools} / u: q / a: Let me look.\n{CALL_TEXT}"
    assert turns(row, turns={"tools": "drop"}) == "u: q / a: Let me look."


def test_answers_with_weight_0_are_context_and_not_trained_on() -> None:
    row = chat("q", "bad", "p", "good")
    row["messages"][1]["weight"] = 0
    record = read(row)
    assert isinstance(record, Conversation)
    assert (len(record.messages), record.metadata) == (4, {UNTRAINED: [1]})
    row["messages"][3]["train"] = False
    bad = read(row)
    assert isinstance(bad, Quarantined)
    assert bad.reason == "not_trained_on"
    row["messages"][1]["weight"] = 1
    record = read(row)
    assert isinstance(record, Conversation)
    assert (len(record.messages), record.metadata) == (2, {})


def test_columns_that_the_user_names_take_precedence() -> None:
    row = {"question": "q", "title": "t", "instruction": "i", "answer": "a"}
    assert turns(row, fields={"prompt": "title"}) == "u: t / a: a"
    assert turns({"talk": {"turns": chat("q", "a")["messages"]}}, fields={"messages": "talk.turns"}) == "u: q / a: a"


def test_each_instance_of_an_instruction_is_a_conversation() -> None:
    row = {"instruction": "q", "instances": [{"input": "1", "output": "a"}, {"input": "2", "output": "b"}]}
    records = list(from_row(row, Location("a.jsonl", 7), RowParams(kind="conversations")))
    assert [record.id for record in records if isinstance(record, Conversation)] == ["a.jsonl:7/0", "a.jsonl:7/1"]


def test_an_error_names_the_columns() -> None:
    bad = read({"heading": "q", "body": "a"})
    assert isinstance(bad, Quarantined)
    assert "the columns are: body, heading" in bad.detail


def test_columns_beside_messages_are_counted_as_unused() -> None:
    record = read(chat("q", "a", completion="other", prompt="other"))
    assert isinstance(record, Conversation)
    assert record.changes == {
        "the column 'prompt' is not used beside 'the messages'": 1,
        "the column 'completion' is not used beside 'the messages'": 1,
    }
