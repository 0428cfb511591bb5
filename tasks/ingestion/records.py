"""The records that a source yields, and how a row of a user's file (names -> values) becomes a record."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field

from tasks.conversations import Conversation, Message, Preference
from tasks.documents import SPLITS, Document
from tasks.ingestion import messages
from tasks.ingestion.decoding import Location, UnusableRecord, clean_text
from tasks.ingestion.messages import Row
from tasks.tables import Quarantined

Record = Document | Conversation | Preference | Quarantined

_SPLIT_NAMES = {"valid": "validation", "dev": "validation", "eval": "validation", "val": "validation"}


class Fields(BaseModel, frozen=True, extra="forbid"):
    """The names of the fields in the user's rows. "a.b" is the field b of the object a; "" means that there is none."""

    text: str = Field("text", description="The text of a document.")
    messages: str = Field("messages", description="A list of messages with role and content, or from and value.")
    conversations: str = Field("conversations", description="A second name for the list of messages (ShareGPT).")
    system: str = Field("system", description="The system message.")
    prompt: str = Field("prompt", description="The user's message, or the messages before the answer.")
    completion: str = Field("completion", description="The assistant's answer.")
    response: str = Field("response", description="A second name for the answer.")
    instruction: str = Field("instruction", description="The user's message in the Alpaca format.")
    input: str = Field("input", description="Text that is appended to the instruction (Alpaca).")
    output: str = Field("output", description="The answer to the instruction (Alpaca), or a list of ranked answers.")
    history: str = Field("history", description="Earlier turns as [question, answer] pairs (Alpaca).")
    chosen: str = Field("chosen", description="The better answer of a preference, or a transcript that ends with it.")
    rejected: str = Field(
        "rejected", description="The worse answer of a preference, or a transcript that ends with it."
    )
    answers: str = Field(
        "answers", description="A ranked list: texts with the best first, or objects with a text and a rank or score."
    )
    reason: str = Field("reason", description="Why the chosen answer is better.")
    group: str = Field("", description="A value that records of one split share, such as a user or a page.")
    split: str = Field("", description="The split of the record: train, validation or test.")


class RowParams(BaseModel, frozen=True, extra="forbid"):
    """The kind of the records, and the names of their fields."""

    kind: Literal["documents", "conversations", "preferences"] = Field(
        "documents", description="The kind of record that a row contains."
    )
    fields: Fields = Field(
        default_factory=lambda: Fields.model_validate({}), description="The names of the fields in the rows."
    )
    metadata: tuple[str, ...] = Field(
        ("id", "url", "metadata"),
        description="Fields to store as metadata; if a field is an object, each of its fields is stored.",
    )
    group_by: Literal["record", "file"] = Field(
        "record", description="What shares one split if fields.group is not set: a record alone, or all of a file."
    )
    split: Literal["", "train", "validation", "test"] = Field(
        "", description="The split of all rows; if empty, it is chosen by a hash of the group."
    )

    @property
    def names(self) -> frozenset[str]:
        """Names at the top level of a row of which at least one must be present for this kind."""
        required = {
            "documents": {"text"},
            "conversations": {"messages", "conversations", "prompt", "completion", "response", "instruction", "output"},
            "preferences": {"messages", "prompt", "instruction", "chosen", "rejected", "answers", "output"},
        }[self.kind]
        return frozenset(getattr(self.fields, name).split(".")[0] for name in required)

    @property
    def columns(self) -> frozenset[str]:
        """All names at the top level of a row that are read."""
        names = (*self.fields.model_dump().values(), *self.metadata)
        return frozenset(name.split(".")[0] for name in names if name)


def exchange(question: str, answer: str) -> list[Message]:
    """Return the messages of one question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def user_message(text: str) -> list[Message]:
    """Return a prompt of one message."""
    return [{"role": "user", "content": text}]


def from_row(row: Row, location: Location, params: RowParams) -> Iterator[Record]:
    """Yield the record of `row`, or the pairs of its ranked list. An unusable row is yielded as Quarantined."""
    try:
        yield from _READERS[params.kind](row, location, params)
    except UnusableRecord as error:
        yield location.quarantine(error)


def record_id(location: Location) -> str:
    """Return the id of the record at `location`, unique in its source: the file, and the line if it has lines."""
    return location.file if location.line is None else f"{location.file}:{location.line}"


def origin(row: Row, location: Location, params: RowParams) -> dict[str, Any]:
    """Return group, metadata and split of a record as keyword arguments."""
    value = messages.get_field(row, params.fields.group)
    default_group = location.file if params.group_by == "file" else record_id(location)
    group = str(value) if value not in (None, "") else default_group
    return {"group": group, "metadata": _read_metadata(row, params.metadata), "split": _read_split(row, params)}


def _read_document(row: Row, location: Location, params: RowParams) -> Iterator[Record]:
    name = params.fields.text
    text = clean_text(messages.require_text(messages.require_field(row, name), name), name)
    yield Document(record_id(location), text, **origin(row, location, params))


def _read_conversation(row: Row, location: Location, params: RowParams) -> Iterator[Record]:
    conversation = messages.read_conversation(row, params.fields)
    yield Conversation(record_id(location), conversation, **origin(row, location, params))


def _read_preferences(row: Row, location: Location, params: RowParams) -> Iterator[Record]:
    prompt, pairs = messages.read_preferences(row, params.fields)
    common = origin(row, location, params)
    reason = messages.get_field(row, params.fields.reason)
    reason = reason if isinstance(reason, str) else ""
    if len(pairs) == 1:
        yield Preference(record_id(location), prompt, *pairs[0], reason=reason, **common)
        return
    # Pairs of one list are correlated, so that training keeps them in one batch (InstructGPT, arXiv:2203.02155, 3.5).
    common["metadata"] = {**common["metadata"], "list": record_id(location)}
    for index, pair in enumerate(pairs):
        yield Preference(f"{record_id(location)}/{index}", prompt, *pair, reason=reason, **common)


_READERS = {"documents": _read_document, "conversations": _read_conversation, "preferences": _read_preferences}


def _read_split(row: Row, params: RowParams) -> str:
    if params.split or not params.fields.split:
        return params.split
    name = params.fields.split
    value = messages.require_text(messages.require_field(row, name), name)
    split = _SPLIT_NAMES.get(value, value)
    if split not in SPLITS:
        raise UnusableRecord("unknown_split", f"The split is {value!r}; expected one of {', '.join(SPLITS)}.", name)
    return split


def _read_metadata(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for name in names:
        value = messages.get_field(row, name)
        if value is None:
            continue
        if isinstance(value, str) and name == "metadata":
            value = _parse_json(value)  # some data sets store the object as a string
        if isinstance(value, dict):
            metadata.update((str(key), _to_json(inner)) for key, inner in value.items())
        else:
            metadata[name] = _to_json(value)
    return metadata


def _parse_json(text: str) -> Any:
    """Return the value in `text`, or `text` itself if it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _to_json(value: Any) -> Any:
    """Return `value` as a JSON value: infinity and NaN become null, dates and other types become strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(inner) for inner in value]
    return str(value)
