"""The tables of conversations (messages with roles) and preferences (a prompt with a chosen and a rejected answer).

A row of preferences may also have a single answer that was judged alone, as KTO uses it: a good answer is in `chosen`,
a bad one in `rejected`, and the other column is null.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import pyarrow as pa

ROLES = ("system", "user", "assistant")
UNTRAINED = "untrained_messages"  # in the metadata: indices of answers that are context only


class Message(TypedDict):
    """One message, in the format of the Hugging Face chat templates."""

    role: str
    content: str
    weight: NotRequired[int]  # 0 for an answer that is context only; not a column of the tables


MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

_ORIGIN = [
    pa.field("source", pa.string(), nullable=False),
    pa.field("group", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
    pa.field("metadata", pa.string(), nullable=False),  # a JSON object; tasks/gold.py reads the correct answer from it
]

CONVERSATIONS = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("messages", MESSAGES), *_ORIGIN])

PREFERENCES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", MESSAGES),  # the last message is from the user
        pa.field("chosen", pa.string()),
        pa.field("rejected", pa.string()),
        pa.field("reason", pa.string(), nullable=False),  # why `chosen` is better; "" if unknown
        *_ORIGIN,
    ]
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation as a source yields it. The last message is from the assistant."""

    id: str
    messages: Sequence[Message]
    group: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    changes: Mapping[str, int] = field(
        default_factory=dict, compare=False
    )  # what was dropped or changed, for the report
    rows: tuple[str, ...] = field(default=("",), compare=False)  # the files of its rows, as of a Document
    format: str = field(default="", compare=False)  # how the row was read, for the report

    def row(self, source: str, split: str) -> dict[str, Any]:
        """Return this conversation as a row of CONVERSATIONS."""
        return {"id": self.id, "messages": list(self.messages), **_origin(self, source, split)}


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair as a source yields it. Pairs that come from one ranked list have the same `metadata["list"]`."""

    id: str
    prompt: Sequence[Message]
    chosen: str
    rejected: str
    group: str
    reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    changes: Mapping[str, int] = field(
        default_factory=dict, compare=False
    )  # what was dropped or changed, for the report
    rows: tuple[str, ...] = field(default=("",), compare=False)  # the files of its rows, as of a Document
    format: str = field(default="", compare=False)  # how the row was read, for the report

    def row(self, source: str, split: str) -> dict[str, Any]:
        """Return this preference as a row of PREFERENCES."""
        answers = {"chosen": self.chosen, "rejected": self.rejected, "reason": self.reason}
        return {"id": self.id, "prompt": list(self.prompt), **answers, **_origin(self, source, split)}


@dataclass(frozen=True, slots=True)
class UnpairedAnswer:
    """One answer that was judged as good or bad without another answer to compare it with."""

    id: str
    prompt: Sequence[Message]
    answer: str
    is_good: bool
    group: str
    reason: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    changes: Mapping[str, int] = field(default_factory=dict, compare=False)
    rows: tuple[str, ...] = field(default=("",), compare=False)  # the files of its rows, as of a Document
    format: str = field(default="", compare=False)  # how the row was read, for the report

    def row(self, source: str, split: str) -> dict[str, Any]:
        """Return this answer as a row of PREFERENCES in which the other answer is null."""
        chosen, rejected = (self.answer, None) if self.is_good else (None, self.answer)
        answers = {"chosen": chosen, "rejected": rejected, "reason": self.reason}
        return {"id": self.id, "prompt": list(self.prompt), **answers, **_origin(self, source, split)}


def _origin(record: Conversation | Preference | UnpairedAnswer, source: str, split: str) -> dict[str, str]:
    metadata = json.dumps(record.metadata, ensure_ascii=False, sort_keys=True)
    return {"source": source, "group": record.group, "split": split, "metadata": metadata}
