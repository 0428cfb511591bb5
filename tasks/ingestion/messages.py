"""Read conversations and preferences from the common formats into messages with roles.

Conversations: messages (role/content, or ShareGPT's from/value), prompt/completion, Alpaca's instruction/input/output.
Preferences: a prompt in any of these formats, with chosen/rejected or with a ranked list of answers.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tasks.conversations import Message
from tasks.ingestion.decoding import UnusableRecord, clean_text

if TYPE_CHECKING:
    from tasks.ingestion.records import Fields

Row = Mapping[str, Any]
AnswerPairs = list[tuple[str, str]]
"""(chosen, rejected)"""

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "answer"), "assistant"),
    "system": "system",
}
_HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")  # the transcripts of Anthropic's HH-RLHF


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
        available = ", ".join(sorted(map(str, row))[:10])
        raise UnusableRecord("missing_field", f"There is no field {name!r}; available: {available or 'none'}.", name)
    return value


def require_text(value: Any, name: str) -> str:
    """Return `value`. Raises UnusableRecord if it is not a string or has nothing but white space."""
    if not isinstance(value, str):
        raise UnusableRecord("wrong_type", f"{name!r} is of type {type(value).__name__}, not a string.", name)
    if not value.strip():
        raise UnusableRecord("empty_text", f"{name!r} is empty.", name)
    return value


def read_conversation(row: Row, fields: "Fields") -> list[Message]:
    """Return the messages of one row; the last is from the assistant. Raises UnusableRecord."""
    messages = _read_prompt(row, fields)
    if messages and messages[-1]["role"] == "assistant":
        return _check_turns(messages, "assistant")
    names = (fields.completion, fields.response, fields.output)
    for name in names:
        if get_field(row, name) is not None:
            return _check_turns([*messages, *_read_answer(get_field(row, name), name)], "assistant")
    raise UnusableRecord("missing_field", f"There is no answer: none of {', '.join(names)}.", fields.completion)


def read_preferences(row: Row, fields: "Fields") -> tuple[list[Message], AnswerPairs]:
    """Return the prompt of one row and its pairs (chosen, rejected). Raises UnusableRecord.

    A row with chosen and rejected has one pair, a row with a ranked list of n answers up to n (n - 1) / 2.
    """
    if get_field(row, fields.chosen) is None and get_field(row, fields.rejected) is None:
        answers = get_field(row, fields.answers)
        is_in_output = answers is None and isinstance(get_field(row, fields.output), list)
        name = fields.output if is_in_output else fields.answers
        pairs = _read_ranked_answers(require_field(row, name), name)
        return _check_turns(_read_prompt(row, fields), "user"), pairs
    chosen = _read_answer(require_field(row, fields.chosen), fields.chosen)
    rejected = _read_answer(require_field(row, fields.rejected), fields.rejected)
    # In some data sets chosen and rejected are complete transcripts, which contain the prompt.
    prompt = _common_prompt(chosen, rejected, fields)
    if not prompt or len(chosen) == 1:
        prompt = _read_prompt(row, fields)
    better, worse = chosen[-1]["content"], rejected[-1]["content"]
    if better == worse:
        raise UnusableRecord("no_difference", "The chosen and the rejected answer are identical.", fields.rejected)
    return _check_turns(prompt, "user"), [(better, worse)]


def _read_prompt(row: Row, fields: "Fields") -> list[Message]:
    """Return the messages before the answer, including system message and history."""
    for name in (fields.messages, fields.conversations, fields.prompt):
        value = get_field(row, name)
        if isinstance(value, list):
            return _add_system(row, fields, _read_messages(value, name))
        if value is not None:
            return _add_system(row, fields, [_read_message("user", value, name)])
    message = _read_message("user", require_field(row, fields.instruction), fields.instruction)
    alpaca_input = get_field(row, fields.input)
    if isinstance(alpaca_input, str) and alpaca_input.strip():
        message["content"] += "\n\n" + clean_text(alpaca_input, fields.input)
    history = get_field(row, fields.history)
    earlier_turns = history if isinstance(history, list) else []
    return _add_system(row, fields, [*_read_history(earlier_turns, fields.history), message])


def _read_history(pairs: Sequence[Any], name: str) -> list[Message]:
    """Return the messages of Alpaca's earlier turns: pairs of a question and its answer."""
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise UnusableRecord("wrong_type", f"{name!r} is not a list of [question, answer] pairs.", name)
    return [
        _read_message(role, content, name)
        for pair in pairs
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]


def _add_system(row: Row, fields: "Fields", messages: list[Message]) -> list[Message]:
    system = get_field(row, fields.system)
    if isinstance(system, str) and system.strip() and messages[:1] and messages[0]["role"] != "system":
        return [_read_message("system", system, fields.system), *messages]
    return messages


def _read_answer(value: Any, name: str) -> list[Message]:
    """Return an answer alone, or a transcript that ends with it; the last message is from the assistant."""
    if isinstance(value, list):
        return _check_last_role(_read_messages(value, name), name)
    if isinstance(value, Mapping):
        return _check_last_role(_read_messages([value], name), name)
    if isinstance(value, str) and value.startswith("\n\nHuman:"):
        _, *parts = _HH_TURN.split(value)  # role, content, role, content ...
        turns = zip(parts[0::2], parts[1::2], strict=True)
        return _check_last_role([_read_message(role.lower(), content, name) for role, content in turns], name)
    return [_read_message("assistant", value, name)]


def _common_prompt(chosen: list[Message], rejected: list[Message], fields: "Fields") -> list[Message]:
    """Return the messages before the last one, which must be the same in both transcripts."""
    if chosen[:-1] != rejected[:-1]:
        detail = "The chosen and the rejected answer do not follow the same messages."
        raise UnusableRecord("different_prompts", detail, fields.rejected)
    return chosen[:-1]


def _read_ranked_answers(value: Any, name: str) -> AnswerPairs:
    """Return every pair of a ranked list in which one answer is ranked above the other."""
    if not isinstance(value, list):
        detail = f"{name!r} is of type {type(value).__name__}, not a list of answers."
        raise UnusableRecord("wrong_type", detail, name)
    ranked = [_read_ranked_answer(index, entry, name) for index, entry in enumerate(value)]
    pairs = [
        (better, worse)
        for (rank_a, a), (rank_b, b) in combinations(ranked, 2)
        if rank_a != rank_b and a != b
        for better, worse in [(a, b) if rank_a < rank_b else (b, a)]
    ]
    if not pairs:
        raise UnusableRecord("no_difference", f"{name!r} has no two answers of which one is better.", name)
    return pairs


def _read_ranked_answer(index: int, value: Any, name: str) -> tuple[float, str]:
    """Return rank and text of an answer. A lower rank is better: `rank`, else the negative score, else the index."""
    if not isinstance(value, Mapping):
        return index, clean_text(require_text(value, name), name)
    content = clean_text(require_text(_first_value(value, ("text", "content", "value", "answer"), name), name), name)
    for key, sign in (("rank", 1), ("score", -1), ("rating", -1)):
        if isinstance(number := value.get(key), int | float):
            return sign * number, content
    return index, content


def _read_messages(value: Sequence[Any], name: str) -> list[Message]:
    messages: list[Message] = []
    for entry in value:
        if not isinstance(entry, Mapping):
            raise UnusableRecord("wrong_type", f"{name!r} has a {type(entry).__name__} instead of a message.", name)
        role = _first_value(entry, ("role", "from"), name)
        messages.append(_read_message(role, _first_value(entry, ("content", "value", "text"), name), name))
    return messages


def _read_message(role: Any, content: Any, name: str) -> Message:
    standard_role = _ROLES.get(role.lower()) if isinstance(role, str) else None
    if standard_role is None:
        detail = f"A message has the role {str(role)[:40]!r}; expected system, user or assistant."
        raise UnusableRecord("bad_roles", detail, name)
    # OpenAI's format of multimodal messages: a list of parts. Only messages that consist of text are read.
    if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    return {"role": standard_role, "content": clean_text(require_text(content, name), name)}


def _first_value(value: Row, names: Sequence[str], field: str) -> Any:
    for name in names:
        if value.get(name) is not None:
            return value[name]
    raise UnusableRecord("missing_field", f"An entry of {field!r} has none of {', '.join(names)}.", field)


def _check_last_role(messages: list[Message], name: str) -> list[Message]:
    if not messages or messages[-1]["role"] != "assistant":
        raise UnusableRecord("bad_roles", f"{name!r} does not end with a message of the assistant.", name)
    return messages


def _check_turns(messages: list[Message], last_role: str) -> list[Message]:
    """Require an optional system message, then user and assistant in turn, ending with `last_role`."""
    turns = [m["role"] for m in messages if m["role"] != "system"]
    is_system_first = all(m["role"] != "system" for m in messages[1:])
    expected = ["user", "assistant"] * len(turns)
    if not is_system_first or turns != expected[: len(turns)] or not turns or turns[-1] != last_role:
        roles = ", ".join(m["role"] for m in messages[:6]) or "no message"
        detail = f"Expected user and assistant in turn, ending with {last_role}; received {roles}."
        raise UnusableRecord("bad_roles", detail)
    return messages
