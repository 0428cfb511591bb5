"""The names of the fields in a user's rows: those of params.yaml, and other usual names of fields that are not set.

A field whose name is left at its default is also recognized under its other usual names, in any case. If two columns
compete for one field and have different contents, the row is quarantined, because either could be the right one.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

from pydantic import BaseModel, Field

from tasks.ingestion.decoding import UnusableRecord

Row = Mapping[str, Any]
Changes = Counter[str]
"""What was dropped or changed in a record, in plain words -> how often."""

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("conversation", "dialog", "dialogue", "chat"),
    "prompt": ("question", "query", "user", "human"),
    "completion": ("answer", "assistant"),
    "response": ("reply",),
    "output": ("target",),
    "system": ("system_prompt", "system_message"),
    "tools": ("functions",),
    "chosen": ("response_chosen", "chosen_response"),
    "rejected": ("response_rejected", "rejected_response", "rejected_messages"),
    "answers": ("completions", "responses", "candidates"),
}


class Fields(BaseModel, frozen=True, extra="forbid"):
    """The names of the fields in the user's rows. "a.b" is the field b of the object a; "" means that there is none."""

    text: str = Field("text", description="The text of a document, or a conversation as one ChatML text.")
    messages: str = Field("messages", description="A list of messages with role and content, or from and value.")
    conversations: str = Field("conversations", description="A second name for the list of messages (ShareGPT).")
    system: str = Field("system", description="The system message.")
    tools: str = Field("tools", description="The definitions of the tools that the assistant may call.")
    prompt: str = Field("prompt", description="The user's message, or the messages before the answer.")
    completion: str = Field("completion", description="The assistant's answer.")
    response: str = Field("response", description="A second name for the answer.")
    instruction: str = Field("instruction", description="The user's message in the Alpaca format.")
    input: str = Field("input", description="A text, number or list that is appended to the instruction (Alpaca).")
    context: str = Field("context", description="A text that is appended to the instruction or question (Dolly).")
    output: str = Field("output", description="The answer to the instruction (Alpaca), or a list of ranked answers.")
    history: str = Field(
        "history", description="Earlier turns: [question, answer] pairs (Alpaca) or messages, also as JSON text."
    )
    chosen: str = Field("chosen", description="The better answer of a preference, or a transcript that ends with it.")
    rejected: str = Field(
        "rejected", description="The worse answer of a preference, or a transcript that ends with it."
    )
    answers: str = Field(
        "answers", description="A ranked list: texts with the best first, or objects with a text and a rank or score."
    )
    label: str = Field(
        "label", description="Whether the answer is a good one (KTO); a conversation with `false` is not trained on."
    )
    weight: str = Field("weight", description="A conversation with the weight 0 is not trained on.")
    reason: str = Field("reason", description="Why the chosen answer is better.")
    group: str = Field(
        "",
        description="A value that records of one split share, such as an id or a user; replaces the content.",
    )
    split: str = Field("", description="The split of the record: train, validation or test.")

    def names_of(self, key: str) -> tuple[str, ...]:
        """Return the name of the field `key`, followed by its other usual names if params.yaml does not set it."""
        name = str(getattr(self, key))
        is_default = name == type(self).model_fields[key].default
        return ((name,) if name else ()) + (OTHER_NAMES.get(key, ()) if is_default else ())

    @cached_property
    def keys_of_column(self) -> dict[str, list[tuple[str, int]]]:
        """Normalized name of a column -> the fields that it may stand for, with its position among their names."""
        keys: dict[str, list[tuple[str, int]]] = {}
        for key in type(self).model_fields:
            for position, name in enumerate(self.names_of(key)):
                keys.setdefault(normalize_name(name), []).append((key, position))
        return keys

    @cached_property
    def nested_names(self) -> list[tuple[str, str]]:
        """(field, name) of each name such as "a.b"."""
        return [(key, name) for key in type(self).model_fields for name in self.names_of(key) if "." in name]

    @cached_property
    def keys_set_by_user(self) -> frozenset[str]:
        """The fields whose names are not the default ones."""
        return frozenset(key for key, info in type(self).model_fields.items() if getattr(self, key) != info.default)


def normalize_name(name: object) -> str:
    """Return the name of a column in the form in which columns are compared: lower case, without outer white space."""
    return str(name).strip().lower()


def find_column(row: Row, name: str) -> str:
    """Return the name of the only column that is `name` apart from its case and outer white space, or else `name`."""
    columns = [column for column in row if normalize_name(column) == normalize_name(name)]
    return str(columns[0]) if len(columns) == 1 else name


def get_field(row: Row, name: str) -> Any:
    """Return the value of a field, None if there is none. "a.b" is the field b of the object a."""
    if name in row or "." not in name:
        return row.get(name)
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def require_field(row: Row, name: str) -> Any:
    """Return the value of a field. Raises UnusableRecord if it is missing or null."""
    value = get_field(row, name)
    if value is None:
        raise UnusableRecord("missing_field", f"There is no field {name!r}; available: {list_columns(row)}.", name)
    return value


def require_text(value: Any, name: str) -> str:
    """Return `value`. Raises UnusableRecord if it is not a string or has nothing but white space."""
    if not isinstance(value, str):
        raise wrong_type(name, value, "a string")
    if not value.strip():
        raise UnusableRecord("empty_text", f"{name!r} is empty.", name)
    return value


def wrong_type(name: str, value: Any, expected: str) -> UnusableRecord:
    """Return the error about a field that has a value of another type than expected."""
    return UnusableRecord("wrong_type", f"{name!r} is of type {type(value).__name__}, not {expected}.", name)


def list_columns(row: Row) -> str:
    """Return the names of the columns that have a value, for a message."""
    return ", ".join(sorted(str(name) for name, value in row.items() if value is not None)[:12]) or "none"


def is_absent(value: Any) -> bool:
    """Return whether a value stands for no value: null, NaN, an empty text, list or object."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value)) or value in ([], {}, ())


def parse_json_text(value: Any) -> Any:
    """Return the list or object that a text contains as JSON, otherwise `value` itself."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def to_text(value: Any, name: str) -> str:
    """Return a text as it is, and a number, list or object as JSON. Raises UnusableRecord for other types."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float | list | Mapping):
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            pass  # a date in a Parquet file, infinity
    raise wrong_type(name, value, "a text, number or list")


@dataclass
class Columns:
    """The columns of one row, and what was changed while they were read."""

    row: Row
    fields: Fields
    changes: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        self._by_name = {normalize_name(name): name for name in self.row}
        self._by_key: dict[str, list[tuple[int, str, Any]]] = {}
        keys_of_column = self.fields.keys_of_column
        for name, column in self._by_name.items():
            if name in keys_of_column and not is_absent(value := self.row[column]):
                for key, position in keys_of_column[name]:
                    self._by_key.setdefault(key, []).append((position, column, value))
        for key, name in self.fields.nested_names:
            if not is_absent(value := get_field(self.row, name)):
                self._by_key.setdefault(key, []).append((0, name, value))

    def present(self, *keys: str) -> list[tuple[str, Any]]:
        """Return (name, value) of each column that stands for one of the fields `keys` and has a value."""
        if self._by_key.keys().isdisjoint(keys):
            return []
        columns: dict[str, Any] = {}
        for key in keys:
            if key in self._by_key:  # most rows have few of the fields
                for _, column, value in sorted(self._by_key[key], key=itemgetter(0)):
                    columns.setdefault(column, value)
        return list(columns.items())

    def competing(self, *keys: str) -> list[tuple[str, Any]]:
        """Return the columns of `present`; if params.yaml names some of them, only those."""
        named = [key for key in keys if key in self.fields.keys_set_by_user]
        return (self.present(*named) if named else []) or self.present(*keys)

    def first(self, *keys: str) -> tuple[str, Any]:
        """Return (name, value) of the first column of these fields that has a value; its value is None if none has."""
        return next(iter(self.present(*keys)), (str(getattr(self.fields, keys[0])), None))

    def get(self, name: str) -> Any:
        """Return the value of the column with exactly this name apart from its case; None if it is absent."""
        value = self.row.get(name, self.row.get(self._by_name.get(name, name)))
        return None if is_absent(value) else value

    def note_unused(self, columns: Iterable[tuple[str, Any]], preferred_name: str) -> None:
        """Count columns that are not read because another one takes precedence."""
        for name, _ in columns:
            self.changes[f"the column {name!r} is not used beside {preferred_name!r}"] += 1

    def missing(self, expected: str, *keys: str, reason: str = "missing_field") -> UnusableRecord:
        """Return the error about a row in which none of the fields `keys` has a value; it names the row's columns."""
        names = {normalize_name(name) for key in keys for name in self.fields.names_of(key)}
        for column, value in self.row.items():
            if normalize_name(column) in names and isinstance(value, str):
                return UnusableRecord("empty_text", f"{column!r} is empty.", str(column))
        detail = f"There is no {expected}; the columns are: {list_columns(self.row)}."
        name = str(getattr(self.fields, keys[0])) if keys else None
        return UnusableRecord(reason, detail + " Name the columns to read under `fields` of the source.", name)
