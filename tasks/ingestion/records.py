"""The records that a source yields, and how a row of a user's file (names -> values) becomes a record."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, Field

from tasks.conversations import UNTRAINED, Conversation, Message, Preference
from tasks.documents import SPLITS, Document
from tasks.ingestion import chat_formats, format_names, preference_formats, splits
from tasks.ingestion.decoding import Location, UnusableRecord, clean_text, read_lines
from tasks.ingestion.fields import (
    Columns,
    Fields,
    Row,
    find_column,
    get_field,
    normalize_name,
    require_field,
    require_text,
)
from tasks.ingestion.formats.objects import parse_object
from tasks.ingestion.labels import LabeledRow
from tasks.ingestion.opening import FileParams, InputFile
from tasks.ingestion.turns import TurnParams
from tasks.tables import Quarantined

Record = Document | Conversation | Preference | Quarantined | LabeledRow

MAX_LAYOUTS = 100  # sets of columns that are remembered
MAX_COLUMN_SETS = 1000  # different sets of columns whose unused ones are remembered
_QUESTIONS, _ANSWERS = chat_formats.QUESTION_KEYS, chat_formats.ANSWER_KEYS
_SPLIT_NAMES = {"valid": "validation", "dev": "validation", "eval": "validation", "val": "validation"}


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
        "record",
        description="What shares one split if fields.group is not set: records with the same text or the same prompt, "
        "or all of a file. The name of a file counts without its folders.",
    )
    split: Literal["", "train", "validation", "test"] = Field(
        "", description="The split of all rows; if empty, it is chosen by a hash of the group."
    )
    turns: TurnParams = Field(
        default_factory=lambda: TurnParams.model_validate({}),
        description="What happens to turns that are not a system message and then user and assistant in turn.",
    )
    max_pairs_per_list: int = Field(
        36, ge=1, description="Maximum number of pairs from one ranked list of answers; 36 are all pairs of 9 answers."
    )

    @cached_property
    def names(self) -> frozenset[str]:
        """Names at the top level of a row of which at least one must be present for this kind."""
        keys = {
            "documents": ("text",),
            "conversations": ("text", "messages", "conversations", *_QUESTIONS, "input", "context", *_ANSWERS),
            "preferences": (
                *("messages", "conversations", *_QUESTIONS, "input", "history"),
                *("chosen", "rejected", "answers", "output"),
            ),
        }[self.kind]
        verdicts = preference_formats.VERDICT_COLUMNS if self.kind == "preferences" else ()
        names = [name for key in keys for name in self.fields.names_of(key)]
        return frozenset(name.split(".")[0] for name in (*names, *verdicts))

    @cached_property
    def columns(self) -> frozenset[str]:
        """All names at the top level of a row that are read, in lower case."""
        names = [name for key in Fields.model_fields for name in self.fields.names_of(key)]
        names += preference_formats.VERDICT_COLUMNS if self.kind == "preferences" else (chat_formats.INSTANCES,)
        return frozenset(normalize_name(name.split(".")[0]) for name in (*names, *self.metadata) if name)

    @cached_property
    def _used_columns(self) -> frozenset[str]:
        """All names at the top level of a row that are read for this kind, in lower case."""
        keys = ("text", "group", "split") if self.kind == "documents" else tuple(Fields.model_fields)
        not_read = {"chosen", "rejected", "reason"} if self.kind == "conversations" else set[str]()
        names = [name for key in keys if key not in not_read for name in self.fields.names_of(key)]
        if self.kind == "conversations":
            names.append(chat_formats.INSTANCES)
        if self.kind == "preferences":
            names += preference_formats.VERDICT_COLUMNS
        return frozenset(normalize_name(name.split(".")[0]) for name in (*names, *self.metadata) if name)

    @cached_property
    def _unused_columns(self) -> dict[tuple[str, ...], frozenset[str]]:
        return {}

    def unused_columns(self, columns: Iterable[str]) -> frozenset[str]:
        """Return those of the columns of a row that are not read for this kind."""
        key = tuple(columns)
        unused = self._unused_columns.get(key)
        if unused is None:
            unused = frozenset(name for name in key if normalize_name(name) not in self._used_columns)
            if len(self._unused_columns) < MAX_COLUMN_SETS:
                self._unused_columns[key] = unused
        return unused

    def recognizes(self, columns: Iterable[str]) -> bool:
        """Return whether at least one of the required columns is among `columns`; their case is ignored."""
        return not self.names.union(map(normalize_name, self.names)).isdisjoint(
            {*columns, *map(normalize_name, columns)}
        )

    @cached_property
    def _plain_columns(self) -> dict[tuple[str, ...], chat_formats.PlainColumns | None]:
        return {}

    def plain_columns(self, row: Row) -> chat_formats.PlainColumns | None:
        """Return what chat_formats.find_plain_columns finds; it is computed once for rows of equal columns."""
        names = tuple(row)
        if names not in self._plain_columns:
            if len(self._plain_columns) >= MAX_LAYOUTS:
                self._plain_columns.clear()
            self._plain_columns[names] = chat_formats.find_plain_columns(names, self.fields)
        return self._plain_columns[names]


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
    numbers = [str(number) for number in (location.line, location.part) if number is not None]
    return ":".join([location.file, *numbers])


def origin(row: Row, location: Location, params: RowParams, content_group: str) -> dict[str, Any]:
    """Return group, metadata and split of a record as keyword arguments."""
    value = get_field(row, params.fields.group)
    default_group = location.file.rsplit("/", 1)[-1] if params.group_by == "file" else content_group
    group = str(value) if value not in (None, "") else default_group
    return {"group": group, "metadata": _read_metadata(row, params.metadata), "split": _read_split(row, params)}


def _read_document(row: Row, location: Location, params: RowParams) -> Iterator[Record]:
    name = params.fields.text
    if name not in row:
        name = find_column(row, name)
    text = clean_text(require_text(require_field(row, name), name), name)
    common = origin(row, location, params, splits.text_group(text))
    yield Document(record_id(location), text, **common, rows=(location.file,), format=f"text in {name!r}")


def _read_conversation(row: Row, location: Location, params: RowParams) -> Iterator[Record]:
    plain = params.plain_columns(row)
    if plain and (messages := chat_formats.read_plain(row, plain)):
        group = splits.prompt_group(messages[:-1])
        common = origin(row, location, params, group)
        format_name = format_names.plain_format(plain)
        yield Conversation(record_id(location), messages, **common, rows=(location.file,), format=format_name)
        return
    format_name, rows = "", chat_formats.split_instances(row)
    for index, single in enumerate(rows):
        columns = Columns(single, params.fields)
        conversation, untrained = chat_formats.read_conversation(columns, params.turns)
        common = origin(row, location, params, splits.prompt_group(conversation[:-1]))
        if untrained:  # tokenization reads which messages are context only
            common["metadata"] = {**common["metadata"], UNTRAINED: untrained}
        identifier = record_id(location) if len(rows) == 1 else f"{record_id(location)}/{index}"
        format_name = format_name or format_names.conversation_format(columns)
        made_from = () if index else (location.file,)
        yield Conversation(
            identifier, conversation, **common, changes=_nonzero(columns), rows=made_from, format=format_name
        )


def _read_preferences(row: Row, location: Location, params: RowParams) -> Iterator[Record]:
    columns = Columns(row, params.fields)
    content = preference_formats.read_preferences(columns, params.turns, params.max_pairs_per_list)
    prompt = content.prompt if isinstance(content, preference_formats.LabeledAnswer) else content[0]
    common = origin(row, location, params, splits.prompt_group(prompt))
    reason = get_field(row, params.fields.reason)
    common["reason"] = reason if isinstance(reason, str) else ""
    if isinstance(content, preference_formats.LabeledAnswer):
        yield LabeledRow(record_id(location), location, content, common, _nonzero(columns))
        return
    pairs = content[1]
    common["format"] = format_names.preference_format(columns)
    if len(pairs) == 1:
        common |= {"changes": _nonzero(columns), "rows": (location.file,)}
        yield Preference(record_id(location), prompt, *pairs[0], **common)
        return
    # Pairs of one list are correlated, so that training keeps them in one batch (InstructGPT, arXiv:2203.02155, 3.5).
    common["metadata"] = {**common["metadata"], "list": record_id(location)}
    for index, pair in enumerate(pairs):
        common["changes"], common["rows"] = ({}, ()) if index else (_nonzero(columns), (location.file,))
        yield Preference(f"{record_id(location)}/{index}", prompt, *pair, **common)


def _nonzero(columns: Columns) -> dict[str, int]:
    return {words: count for words, count in columns.changes.items() if count}


_READERS = {"documents": _read_document, "conversations": _read_conversation, "preferences": _read_preferences}


def _read_split(row: Row, params: RowParams) -> str:
    if params.split or not params.fields.split:
        return params.split
    name = params.fields.split
    value = require_text(require_field(row, name), name)
    split = _SPLIT_NAMES.get(value, value)
    if split not in SPLITS:
        raise UnusableRecord("unknown_split", f"The split is {value!r}; expected one of {', '.join(SPLITS)}.", name)
    return split


def _read_metadata(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for name in names:
        value = get_field(row, name)
        if value is None:
            continue
        if isinstance(value, str) and name == "metadata":
            value = _parse_json(value)  # some data sets store the object as a string
        if isinstance(value, dict):
            metadata.update((_to_json(str(key)), _to_json(inner)) for key, inner in value.items())
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
    if isinstance(value, str):  # JSON text can contain half of a surrogate pair, which cannot be stored
        return value if value.isascii() else value.encode(errors="replace").decode()
    if value is None or isinstance(value, int | bool):
        return value
    if isinstance(value, Mapping):
        return {_to_json(str(key)): _to_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(inner) for inner in value]
    return str(value)


def read_objects(file: InputFile, params: FileParams) -> Iterator[tuple[Location, dict[str, Any]] | Quarantined]:
    """Yield the object of each line that is not blank, and count it; a line without one is yielded as Quarantined."""
    for line in read_lines(file, params):
        if isinstance(line, Quarantined):
            file.count_rows(line.num_records)
            yield line
        elif line.text.strip():
            file.count_rows()
            try:
                yield line.location, parse_object(line.text)
            except UnusableRecord as error:
                yield line.location.quarantine(error)
