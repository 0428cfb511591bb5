"""Every supported format of conversations and preferences, and the reasons for rows that have none of them."""

from typing import Any

import pytest

from tasks.conversations import Conversation, Preference
from tasks.documents import Document
from tasks.ingestion import splits
from tasks.ingestion.decoding import Location
from tasks.ingestion.records import Record, RowParams, from_row
from tasks.tables import Quarantined

LOCATION = Location("a.jsonl", 7)
Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
B = {"role": "assistant", "content": "b"}
S = {"role": "system", "content": "s"}


def read(row: dict[str, Any], **params: Any) -> list[Record]:
    return list(from_row(row, LOCATION, RowParams(**params)))


CONVERSATIONS: list[tuple[dict[str, Any], list[Any]]] = [
    ({"messages": [Q, A]}, [Q, A]),
    ({"messages": [S, Q, A, Q, B]}, [S, Q, A, Q, B]),
    ({"messages": [Q, A], "system": "s"}, [S, Q, A]),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [Q, A]),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, A]}, [Q, A]),
    ({"prompt": "q", "completion": "a"}, [Q, A]),
    ({"prompt": "q", "response": "a"}, [Q, A]),
    ({"prompt": [S, Q], "completion": [A]}, [S, Q, A]),
    ({"instruction": "q", "input": "", "output": "a"}, [Q, A]),
    ({"instruction": "q", "output": "a"}, [Q, A]),
    ({"instruction": "q", "input": "more", "output": "a"}, [{"role": "user", "content": "q\n\nmore"}, A]),
    ({"instruction": "q", "output": "b", "history": [["q", "a"]]}, [Q, A, Q, B]),
]


@pytest.mark.parametrize(("row", "messages"), CONVERSATIONS)
def test_conversations(row: dict[str, Any], messages: list[Any]) -> None:
    assert read(row, kind="conversations") == [Conversation("a.jsonl:7", messages, splits.prompt_group(messages[:-1]))]


PREFERENCES: list[tuple[dict[str, Any], list[Any]]] = [
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, [Q]),
    ({"prompt": [S, Q], "chosen": [A], "rejected": [B]}, [S, Q]),
    ({"chosen": [Q, A], "rejected": [Q, B]}, [Q]),
    ({"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]}, [Q]),
    ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, [Q]),
    ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"}, "rejected": B}, [Q]),
    ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, [Q]),
    ({"prompt": "q", "answers": ["a", "b"]}, [Q]),
    ({"instruction": "q", "output": ["a", "b"]}, [Q]),
    ({"prompt": "q", "answers": [{"text": "b", "score": 1}, {"text": "a", "score": 3}]}, [Q]),
    ({"prompt": "q", "answers": [{"text": "b", "rank": 2}, {"text": "a", "rank": 1}]}, [Q]),
]


@pytest.mark.parametrize(("row", "prompt"), PREFERENCES)
def test_preferences(row: dict[str, Any], prompt: list[Any]) -> None:
    (pair,) = read(row, kind="preferences")
    assert isinstance(pair, Preference)
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, "a", "b")


def test_reason_group_split_and_metadata() -> None:
    row = {
        "prompt": "q", "chosen": "a", "rejected": "b", "reason": "style", "pack": {"name": "g"}, "part": "dev",
        "id": 5, "score": float("nan"), "metadata": {"answer": "a"}, "other": 1,
    }  # fmt: skip
    fields = {"group": "pack.name", "split": "part"}
    (pair,) = read(row, kind="preferences", fields=fields, metadata=["id", "score", "metadata"])
    assert isinstance(pair, Preference)
    assert (pair.reason, pair.group, pair.split) == ("style", "g", "validation")
    assert pair.metadata == {"id": 5, "score": None, "answer": "a"}


def test_documents_and_renamed_fields() -> None:
    params = {"fields": {"text": "page.body"}, "group_by": "file"}
    assert read({"page": {"body": "b"}, "url": "u"}, **params) == [Document("a.jsonl:7", "b", "a.jsonl", {"url": "u"})]


UNUSABLE_ROWS: list[tuple[str, dict[str, Any], str]] = [
    ("conversations", {}, "unknown_format"),
    ("conversations", {"prompt": "q"}, "missing_field"),
    ("conversations", {"messages": [Q]}, "missing_field"),
    ("conversations", {"messages": []}, "unknown_format"),
    ("conversations", {"messages": "q"}, "wrong_type"),
    ("conversations", {"messages": 3}, "wrong_type"),
    ("conversations", {"messages": [Q, {"role": 3, "content": "x"}]}, "bad_roles"),
    ("conversations", {"messages": [Q, {"role": "narrator", "content": "x"}]}, "bad_roles"),
    ("conversations", {"messages": ["q", "a"]}, "wrong_type"),
    ("conversations", {"messages": [Q, {"role": "assistant"}]}, "missing_field"),
    ("conversations", {"messages": [Q, {"role": "assistant", "content": ""}]}, "empty_text"),
    ("conversations", {"messages": [Q, {"role": "assistant", "content": 3}]}, "wrong_type"),
    ("conversations", {"messages": [Q, {"role": "assistant", "content": "a\0"}]}, "nul"),
    ("conversations", {"messages": [A]}, "bad_roles"),
    ("conversations", {"messages": [Q, {**A, "weight": "low"}]}, "wrong_type"),
    ("conversations", {"messages": [Q, {**A, "value": "b"}]}, "several_values"),
    ("conversations", {"messages": [{"role": "user", "content": [3]}, A]}, "wrong_type"),
    ("conversations", {"messages": [Q, A], "system": 3}, "wrong_type"),
    ("conversations", {"instruction": "q", "output": "a", "history": ["q"]}, "wrong_type"),
    ("conversations", {"instruction": "q", "output": "a", "history": "earlier talk"}, "wrong_type"),
    ("conversations", {"instruction": "q", "output": ["a", "b"]}, "several_answers"),
    ("conversations", {"instruction": "q", "output": True}, "wrong_type"),
    ("conversations", {"instruction": "q", "response": "a", "output": "b"}, "ambiguous"),
    ("conversations", {"question": "q", "query": "other", "answer": "a"}, "ambiguous"),
    ("conversations", {"conversation": [Q, A], "dialog": [Q, B]}, "ambiguous"),
    ("conversations", {"dialog": ["q", "a"]}, "wrong_type"),
    ("conversations", {"text": "q"}, "unknown_format"),
    ("conversations", {"prompt": "q", "completion": "a", "label": False}, "not_trained_on"),
    ("conversations", {"prompt": "q", "completion": "a", "weight": 0}, "not_trained_on"),
    ("preferences", {"prompt": "q"}, "unknown_format"),
    ("preferences", {"prompt": "q", "chosen": "a"}, "missing_field"),
    ("preferences", {"prompt": "q", "chosen": "a", "rejected": None}, "missing_field"),
    ("preferences", {"prompt": "q", "chosen": "a", "rejected": ""}, "empty_text"),
    ("preferences", {"prompt": "q", "chosen": "a", "rejected": 3}, "wrong_type"),
    ("preferences", {"chosen": "a", "rejected": "b"}, "bad_roles"),
    ("preferences", {"prompt": "q", "chosen": "a", "rejected": "a"}, "no_difference"),
    ("preferences", {"prompt": "q", "chosen": "a", "rejected": "a "}, "no_difference"),
    ("preferences", {"prompt": "q", "answers": ["a"]}, "no_difference"),
    ("preferences", {"prompt": "q", "answers": ["a", "a"]}, "no_difference"),
    ("preferences", {"prompt": "q", "answers": "a"}, "wrong_type"),
    ("preferences", {"prompt": "q", "answers": [{"rank": 1}]}, "missing_field"),
    ("preferences", {"chosen": [Q, A], "rejected": [Q]}, "bad_roles"),
    ("preferences", {"chosen": [Q, A], "rejected": [S, Q, B]}, "different_prompts"),
    ("preferences", {"prompt": "other", "chosen": [Q, A], "rejected": [Q, B]}, "different_prompts"),
    ("preferences", {"prompt": [Q, {**A, "content": "c"}], "chosen": "a", "rejected": "b"}, "bad_roles"),
]


@pytest.mark.parametrize(("kind", "row", "reason"), UNUSABLE_ROWS)
def test_a_row_in_no_supported_format(kind: str, row: dict[str, Any], reason: str) -> None:
    (bad,) = read(row, kind=kind)
    assert isinstance(bad, Quarantined)
    assert (bad.reason, bad.file, bad.line) == (reason, "a.jsonl", 7)


def test_metadata_in_a_text_can_be_stored() -> None:
    (document,) = read({"text": "a", "metadata": '{"note": "\\ud800", "number": NaN}'})
    assert isinstance(document, Document)
    assert document.metadata == {"note": "?", "number": None}


def test_an_unknown_split_is_quarantined() -> None:
    (bad,) = read({"text": "a", "part": "train2"}, fields={"split": "part"})
    assert isinstance(bad, Quarantined)
    assert bad.reason == "unknown_split"


PLAIN_TEXTS = [
    "q",
    " q",
    "q\n",
    "",
    "  ",
    None,
    3,
    ["q"],
    "[1]",
    '[{"role": "user", "content": "q"}]',
    "Human: a\n\nAssistant: b",
]
PLAIN_TEXTS += [
    "### Human: a\n### Assistant: b",
    "<|im_start|>user\nq<|im_end|>",
    "cafe\u0301",
    "a\0",
    "\u3000q",
    "{}",
    "#q",
]


@pytest.mark.parametrize("text", PLAIN_TEXTS, ids=repr)
@pytest.mark.parametrize(
    ("question", "extra", "answer"),
    [("instruction", "input", "output"), ("question", "", "answer"), ("prompt", "input", "completion")],
)
def test_plain_rows_are_read_as_all_rows(question: str, extra: str, answer: str, text: Any) -> None:
    """`history` without a value changes nothing but the way in which a row is read."""
    plain = {question: "q", answer: "a"} | ({extra: "e"} if extra else {})
    for column in filter(None, (question, extra, answer)):
        row = {**plain, column: text}
        assert read(row, kind="conversations") == read({**row, "history": None}, kind="conversations")


@pytest.mark.parametrize(
    "row", [{"q1": "q", "output": "a", "id": "7"}, {"Q1 ": "q", "Output": "a", "instruction": "b"}]
)
def test_plain_rows_with_names_of_the_user(row: dict[str, Any]) -> None:
    [record] = read(row, kind="conversations", fields={"instruction": "q1"})
    assert isinstance(record, Conversation)
    assert record.messages == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def test_time_is_linear_in_the_number_of_messages() -> None:
    """10^5 messages of one role and a text of 10^5 lines that begin a turn; quadratic time would be 10^10 steps."""
    [joined] = read({"messages": [Q] * 100_000 + [A]}, kind="conversations")
    assert isinstance(joined, Conversation)
    assert len(joined.messages) == 2
    [transcript] = read({"text": "### Human: q\n### Assistant:" + "\n " * 100_000 + "a"}, kind="conversations")
    assert isinstance(transcript, Conversation)
