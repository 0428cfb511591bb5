"""The name of the format in which a row was read, for the report: Alpaca, ShareGPT, a ranked list ..."""

from collections.abc import Mapping
from typing import Any

from tasks.ingestion.chat_formats import PlainColumns
from tasks.ingestion.fields import Columns, normalize_name, parse_json_text

KTO = "answer and label (KTO)"


def conversation_format(columns: Columns) -> str:
    """Return the name of the format of a conversation."""
    if lists := columns.present("messages", "conversations"):
        return _messages_format(lists[0][1])
    if columns.get("instances") is not None:
        return "Self-Instruct"
    if columns.present("instruction"):
        return "Dolly" if columns.present("context") else "Alpaca"
    if columns.present("prompt", "input"):
        return "question, context and answer" if columns.present("context") else "question and answer"
    return "transcript"


def plain_format(columns: PlainColumns) -> str:
    """Return the name of the format of a row of plain texts, by the names of its columns."""
    question, extra, _ = map(normalize_name, columns)
    if question == "instruction":
        return "Dolly" if extra == "context" else "Alpaca"
    return "question, context and answer" if extra == "context" else "question and answer"


def preference_format(columns: Columns) -> str:
    """Return the name of the format of a preference."""
    chosen = columns.present("chosen")
    if chosen or columns.present("rejected"):
        if not chosen:
            return "messages and a rejected answer (swift)"
        kind = _messages_format(chosen[0][1])
        return f"chosen and rejected ({kind})" if kind != "transcript" else "chosen and rejected"
    for name in ("better_response_id", "labels", "preference_strength", "overall_preference", "winner", "preference"):
        if columns.get(name) is not None:
            return f"two answers and {name!r}"
    if columns.present("answers") or isinstance(columns.first("output")[1], list):
        return "ranked list of answers"
    return KTO


def _messages_format(value: Any) -> str:
    """Return the name of the notation of a list of messages; a text is a transcript."""
    messages = parse_json_text(value)
    first = messages[0] if isinstance(messages, list) and messages else messages
    if not isinstance(first, Mapping):
        return "transcript"
    return "ShareGPT" if "from" in first else "messages"
