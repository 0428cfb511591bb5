"""Read lists of messages in the formats of OpenAI, ShareGPT, Anthropic and ChatGPT exports, and transcripts in a text.

Tool calls, reasoning and parts that are not text are kept or dropped as the params say, and counted.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.ingestion.decoding import UnusableRecord, clean_text
from tasks.ingestion.fields import Changes, Row, is_absent, parse_json_text, wrong_type
from tasks.ingestion.turns import Turn, TurnParams, trim

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question", "用户"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "model", "answer", "ai", "bard", "bing", "助手"), "assistant"
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "ipython", "observation", "tool_response", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "function-call"), "call"),
}
SPEAKERS = ("system", "user", "assistant")
_TRAINING_KEYS = ("weight", "loss", "train", "trainable")
_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")  # the transcripts of Anthropic's HH-RLHF
_HH_START = re.compile(r"\A\s*Human:.*\n\nAssistant:", re.DOTALL)
_CHATML_TURN = re.compile(r"<\|im_start\|>([^\n<]*)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)
_HASH_TURN = re.compile(r"(?:\A\s*|\n[ \t]*+)### ?(Human|User|Assistant|System):")  # Guanaco
_HASH_START = re.compile(r"\A\s*### ?(?:Human|User|System):.*\n[ \t]*+### ?Assistant:", re.DOTALL)
_SIMPLE_NAME = re.compile(r"[\w./-]{1,40}", re.ASCII)
_TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING_PARTS = ("thinking", "reasoning", "redacted_thinking", "thoughts")


def read_transcript(value: Any, name: str, params: TurnParams, changes: Changes) -> list[Turn] | None:
    """Return the turns of a list of messages, of one message, or of a text that contains a transcript; None if none."""
    if isinstance(value, str) and _is_messages(parsed := parse_json_text(value)):
        value = parsed
    if isinstance(value, Mapping):
        value = _transpose(value)
    if isinstance(value, list):
        return read_messages(value, name, params, changes)
    if not isinstance(value, str):
        return None
    return _split_text(value, name, changes)


def read_messages(value: Sequence[Any], name: str, params: TurnParams, changes: Changes) -> list[Turn]:
    """Return the turns of a list of messages. Raises UnusableRecord."""
    turns: list[Turn] = []
    for entry in value:
        if not isinstance(entry, Mapping):
            raise UnusableRecord("wrong_type", f"{name!r} has a {type(entry).__name__} instead of a message.", name)
        turns += _read_entry(entry, name, params, changes)
    return turns


def make_turn(role: str, content: Any, name: str, changes: Changes, is_trained: bool = True) -> Turn:
    """Return a turn whose text is repaired and trimmed. Raises UnusableRecord if it is not a text."""
    if not isinstance(content, str):
        raise wrong_type(name, content, "a string")
    trimmed = trim(clean_text(content, name))
    if len(trimmed) < len(content) and trimmed != content:
        changes["white space at the beginning or end of a message is removed"] += content.strip() != ""
    return Turn(role, trimmed, is_trained)


def _transpose(value: Row) -> list[Any]:
    """Return the messages of an object: one message, or lists of roles and contents (a Sequence of `datasets`)."""
    columns = [column for column in value.values() if isinstance(column, list)]
    roles = value.get("role", value.get("from"))
    if not isinstance(roles, list) or any(len(column) != len(roles) for column in columns):
        return [value]
    keys = [key for key, column in value.items() if isinstance(column, list)]
    return [dict(zip(keys, items, strict=True)) for items in zip(*columns, strict=True)]


def _is_messages(value: Any) -> bool:
    """Return whether JSON in a text is a list of messages; otherwise the text stands for itself, such as "[1, 2]"."""
    return isinstance(value, list) and all(
        isinstance(entry, Mapping) and ("role" in entry or "from" in entry or "author" in entry) for entry in value
    )


def _split_text(text: str, name: str, changes: Changes) -> list[Turn] | None:
    """Return the turns of a transcript in HH-RLHF's, ChatML's or Guanaco's notation; None if the text has none."""
    if _HH_START.match(text) or _HASH_START.match(text):
        pattern = _HH_TURN if _HH_START.match(text) else _HASH_TURN
        _, *parts = pattern.split(text)  # role, content, role, content ...
        pairs = list(zip(parts[0::2], parts[1::2], strict=True))
    elif text.lstrip().startswith("<|im_start|>"):
        pairs = _CHATML_TURN.findall(text)
        if _CHATML_TURN.sub("", text).strip():
            raise UnusableRecord("bad_roles", f"{name!r} has text outside of the messages of ChatML.", name)
    else:
        return None
    if len(pairs) > 1 and not pairs[-1][1].strip() and _standard_role(pairs[-1][0], name) == "assistant":
        del pairs[-1]  # the header that asks for the next answer
    return [make_turn(_standard_role(role, name), content.strip(), name, changes) for role, content in pairs]


def _read_entry(entry: Row, name: str, params: TurnParams, changes: Changes) -> list[Turn]:
    """Return the turns of one entry: a message, or an object such as {human: ..., assistant: ...}."""
    author = entry.get("author")
    role = _first_value(entry, ("role", "from", "speaker"), name)
    if role is None and isinstance(author, Mapping):
        role = author.get("role")
    if role is None:
        by_key = [(ROLES.get(str(key).strip().lower()), value) for key, value in entry.items() if value is not None]
        by_role = dict(by_key)
        if [key for key, _ in by_key].count("user") != 1 or [key for key, _ in by_key].count("assistant") != 1:
            keys = ", ".join(map(str, entry)) or "none"
            raise UnusableRecord("missing_field", f"A message of {name!r} has no role; its keys are: {keys}.", name)
        return [make_turn(key, by_role[key], name, changes) for key in SPEAKERS if key in by_role]
    standard_role = _standard_role(role, name)
    content = _first_value(entry, ("content", "value", "text"), name)
    is_trained = _is_trained(entry, name)
    if content is None and "content" not in entry and "value" not in entry and not _has_calls(entry):
        raise UnusableRecord("missing_field", f"A message of {name!r} has none of content, value, text.", name)
    texts, calls, results = _read_content(content, name, params, changes)
    calls += [_call_text(call) for call in _calls(entry)]
    texts = _add_reasoning(entry, texts, name, params, changes)
    return _add_tools(standard_role, texts, calls, results, name, params, changes, is_trained)


def _add_tools(
    role: str,
    texts: list[str],
    calls: list[str],
    results: list[str],
    name: str,
    params: TurnParams,
    changes: Changes,
    is_trained: bool,
) -> list[Turn]:
    """Return the message with its tool calls and results as text, or without them."""
    text = _join_texts(texts)
    if role == "call":
        role, text, calls = "assistant", "", [text, *calls]
    if role == "tool":
        role, text, results = "user", "", [text, *results]
    if calls or results:
        if params.tools == "quarantine":
            raise UnusableRecord("tool_call", "turns.tools is `quarantine`, and the row has tool calls.", name)
        verb = "kept as text" if params.tools == "keep" else "dropped"
        changes[f"a tool call is {verb}"] += len(calls)
        changes[f"the result of a tool is {verb}"] += len(results)
        if params.tools == "keep":
            tagged = [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
            tagged += [f"<tool_response>\n{result}\n</tool_response>" for result in results]
            text = "\n".join([text, *tagged] if text.strip() else tagged)
        elif not text.strip():
            return []
    return [make_turn(role, text, name, changes, is_trained)]


def _read_content(
    content: Any, name: str, params: TurnParams, changes: Changes
) -> tuple[list[str], list[str], list[str]]:
    """Return the texts, tool calls and tool results of the content of a message: a text, or a list of parts."""
    if content is None or isinstance(content, str):
        return [content or ""], [], []
    if isinstance(content, Mapping):  # an export of ChatGPT: {content_type: text, parts: [...]}
        kind, parts = content.get("content_type", content.get("type", "text")), content.get("parts")
        content = parts if isinstance(parts, list) and kind in ("text", "multimodal_text") else [content]
    if not isinstance(content, list):
        raise wrong_type(name, content, "a string or a list of parts")
    texts: list[str] = []
    calls: list[str] = []
    results: list[str] = []
    for part in content:
        if part is None:
            continue
        kind = _part_type(part, name)
        if kind in _TEXT_PARTS:
            text = part if isinstance(part, str) else part.get("text")
            if text is not None and not isinstance(text, str):
                raise wrong_type(name, text, "a string")
            texts.append(text or "")
        elif kind in ("tool_use", "tool_call"):
            calls.append(_call_text(part))
        elif kind == "tool_result":
            inner, _, _ = _read_content(part.get("content"), name, params, changes)
            results.append(_join_texts(inner))
        elif kind in _REASONING_PARTS:
            texts += _reasoning_text(part.get("thinking") or part.get("text") or "", params, changes)
        else:
            texts += _other_part(kind, name, params, changes)
    return texts, calls, results


def _part_type(part: Any, name: str) -> str:
    if isinstance(part, str):
        return "text"
    if not isinstance(part, Mapping):
        raise wrong_type(name, part, "a part of a message")
    kind = part.get("type", part.get("content_type"))
    if kind is None:
        kind = "text" if isinstance(part.get("text"), str) else next((str(k) for k, v in part.items() if v), "empty")
    return str(kind) if _SIMPLE_NAME.fullmatch(str(kind)) else "other"


def _other_part(kind: str, name: str, params: TurnParams, changes: Changes) -> list[str]:
    if params.parts == "quarantine":
        raise UnusableRecord("not_text", f"turns.parts is `quarantine`, and a part is of type {kind!r}.", name)
    verb = "dropped" if params.parts == "drop" else "replaced by a placeholder"
    changes[f"a part of a message that is not text ({kind}) is {verb}"] += 1
    return [] if params.parts == "drop" else [f"[{kind.removeprefix('input_').removesuffix('_url')}]"]


def _add_reasoning(entry: Row, texts: list[str], name: str, params: TurnParams, changes: Changes) -> list[str]:
    for key in ("reasoning_content", "reasoning", "thinking", "thought"):
        value = entry.get(key)
        if not is_absent(value):
            if not isinstance(value, str):
                raise wrong_type(f"{name}.{key}", value, "a string")
            return [*_reasoning_text(value, params, changes), *texts]
    return texts


def _reasoning_text(reasoning: str, params: TurnParams, changes: Changes) -> list[str]:
    if params.reasoning == "drop":
        changes["the reasoning of a message is dropped"] += 1
        return []
    changes["the reasoning of a message is kept as text"] += 1
    return [f"<think>\n{reasoning.strip()}\n</think>\n\n"]


def _join_texts(texts: Sequence[str]) -> str:
    """Join the texts of a message, each on a line of its own unless white space is between them already."""
    joined = ""
    for text in texts:
        is_apart = not joined or not text or joined[-1].isspace() or text[0].isspace()
        joined += text if is_apart else f"\n{text}"
    return joined


def _has_calls(entry: Row) -> bool:
    return bool(_calls(entry))


def _calls(entry: Row) -> list[Any]:
    calls = parse_json_text(entry.get("tool_calls"))
    single = entry.get("function_call")
    return [*(calls if isinstance(calls, list) else [calls] if calls else []), *([single] if single else [])]


def _call_text(call: Any) -> str:
    """Return a tool call as JSON: {"name": ..., "arguments": ...}."""
    if isinstance(call, str):
        return call
    inner = call.get("function", call) if isinstance(call, Mapping) else call
    if isinstance(inner, Mapping) and "name" in inner:
        arguments = parse_json_text(inner.get("arguments", inner.get("input", {})))
        inner = {"name": inner["name"], "arguments": arguments if arguments is not None else {}}
    return json.dumps(inner, ensure_ascii=False, default=str)


def _is_trained(entry: Row, name: str) -> bool:
    """Return whether the model should learn to write a message: no key such as `weight` or `train` forbids it."""
    for key in _TRAINING_KEYS:
        value = entry.get(key)
        if is_absent(value):
            continue
        if isinstance(value, str):
            value = {"0": 0, "1": 1, "false": False, "true": True}.get(value.strip().lower(), value)
        if not isinstance(value, int | float):
            raise wrong_type(f"{name}.{key}", value, "a number or a boolean")
        if not value:
            return False
    return entry.get("label") is not False


def _standard_role(role: Any, name: str) -> str:
    standard_role = ROLES.get(role.strip().rstrip(":").lower()) if isinstance(role, str) else None
    if standard_role is None:
        detail = f"A message has the role {str(role)[:40]!r}; expected system, user, assistant or tool."
        raise UnusableRecord("bad_roles", detail, name)
    return standard_role


def _first_value(entry: Row, keys: Sequence[str], name: str) -> Any:
    """Return the value of the first key that is not null. Raises UnusableRecord if two keys have different values."""
    values = [(key, entry[key]) for key in keys if entry.get(key) is not None]
    if len(values) > 1 and values[0][1] != values[1][1]:
        detail = f"A message of {name!r} has different values under {values[0][0]!r} and {values[1][0]!r}."
        raise UnusableRecord("several_values", detail, name)
    return values[0][1] if values else None
