"""Arrange turns: an optional system message, then user and assistant in turn. Each rule that changes a turn is counted.

The chat template of a model requires this order; data in other orders are brought into it by rules, which params.yaml
can replace by quarantine.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, Field

from tasks.conversations import Message
from tasks.ingestion.decoding import UnusableRecord
from tasks.ingestion.fields import Changes

_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_ONE_SPACE = re.compile(r"\A (?=\S)")  # more than one is the indentation of code


class TurnParams(BaseModel, frozen=True, extra="forbid"):
    """What happens to turns that are not an optional system message and then user and assistant in turn."""

    empty: Literal["drop", "quarantine"] = Field("drop", description="A message without text.")
    second_system: Literal["join", "drop", "quarantine"] = Field(
        "join", description="A second system message directly after the first one; `join` appends it to the first."
    )
    late_system: Literal["user", "drop", "quarantine"] = Field(
        "user", description="A system message after other messages; `user` puts it before the next text of the user."
    )
    same_role: Literal["join", "quarantine"] = Field(
        "join", description="Consecutive messages of one role; `join` makes one message of them."
    )
    greeting: Literal["drop", "quarantine"] = Field(
        "drop", description="Messages of the assistant before the first one of the user."
    )
    trailing_user: Literal["drop", "quarantine"] = Field(
        "drop", description="A last message of the user, which has no answer."
    )
    tools: Literal["keep", "drop", "quarantine"] = Field(
        "keep",
        description="Tool calls and their results; `keep` writes them as text between <tool_call> and </tool_call>, "
        "<tool_response> and </tool_response> (as Hermes and Qwen do), with the results as messages of the user.",
    )
    parts: Literal["drop", "placeholder", "quarantine"] = Field(
        "drop", description="Parts of a message that are not text; `placeholder` writes their type, such as [image]."
    )
    reasoning: Literal["drop", "keep"] = Field(
        "drop", description="Reasoning in a field of its own; `keep` writes it between <think> and </think>."
    )


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as it was read. `is_trained` is false for a message that the model should not learn to write."""

    role: str
    content: str
    is_trained: bool = True


def trim(content: str) -> str:
    """Remove what chat templates remove: blank lines and one space at the beginning, white space at the end."""
    return _ONE_SPACE.sub("", _BLANK_LINES.sub("", content)).rstrip()


def to_messages(turns: Sequence[Turn]) -> list[Message]:
    """Return the turns as rows of the tables have them."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def arrange(turns: Sequence[Turn], last_role: str, params: TurnParams, changes: Changes) -> list[Turn]:
    """Return an optional system message, then user and assistant in turn, ending with `last_role`.

    Raises UnusableRecord if no such turns are left, or where params ask for quarantine.
    """
    roles = [turn.role for turn in turns]
    arranged = _remove_empty(turns, params, changes)
    num_empty = len(turns) - len(arranged)
    system, arranged = _split_system(arranged, params, changes)
    arranged = _join_same_role(arranged, params, changes)
    if arranged and arranged[0].role == "assistant":
        _apply(
            params.greeting, "greeting", "a message of the assistant before the first of the user is dropped", changes
        )
        arranged = arranged[1:]
    if last_role == "assistant":
        arranged = _end_with_trained_answer(arranged, params, changes)
    if not arranged or arranged[-1].role != last_role:
        detail = (
            f"Expected user and assistant in turn, ending with {last_role}; received {', '.join(roles[:6]) or 'none'}."
        )
        if num_empty:
            raise UnusableRecord("empty_text", f"{num_empty} of {len(turns)} messages are empty. {detail}")
        raise UnusableRecord("bad_roles", detail)
    return [*system, *arranged]


def _apply(rule: str, name: str, words: str, changes: Changes, reason: str = "bad_roles") -> None:
    """Count a change. Raises UnusableRecord if the rule is `quarantine`."""
    if rule == "quarantine":
        raise UnusableRecord(reason, f"turns.{name} is `quarantine`, and otherwise {words}.")
    changes[words] += 1


def _remove_empty(turns: Sequence[Turn], params: TurnParams, changes: Changes) -> list[Turn]:
    kept: list[Turn] = []
    for turn in turns:
        if turn.content.strip():
            kept.append(turn)
        else:
            _apply(params.empty, "empty", f"an empty message ({turn.role}) is dropped", changes, "empty_text")
    return kept


def _split_system(turns: list[Turn], params: TurnParams, changes: Changes) -> tuple[list[Turn], list[Turn]]:
    """Return the system message, if there is one, and the other turns."""
    num_first = next((index for index, turn in enumerate(turns) if turn.role != "system"), len(turns))
    joined = turns[: min(1, num_first)]
    for turn in turns[1:num_first]:
        if turn.content == joined[0].content:
            changes["a repeated system message is dropped"] += 1
            continue
        verb = "dropped" if params.second_system == "drop" else "appended to the first"
        _apply(params.second_system, "second_system", f"a second system message is {verb}", changes)
        if params.second_system == "join":
            joined.append(turn)
    other_turns: list[Turn] = []
    for turn in turns[num_first:]:
        if turn.role == "system":
            verb = "dropped" if params.late_system == "drop" else "joined to the message of the user"
            _apply(params.late_system, "late_system", f"a system message after other messages is {verb}", changes)
            if params.late_system == "drop":
                continue
            turn = replace(turn, role="user")
        other_turns.append(turn)
    return [_join(joined)] if joined else [], other_turns


def _join_same_role(turns: list[Turn], params: TurnParams, changes: Changes) -> list[Turn]:
    groups: list[list[Turn]] = []
    for turn in turns:
        if groups and groups[-1][0].role == turn.role:
            words = f"consecutive messages of one role ({turn.role}) are joined"
            _apply(params.same_role, "same_role", words, changes)
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return [_join(group) for group in groups]


def _join(turns: Sequence[Turn]) -> Turn:
    """Return the turns of one role as one turn; joining them one by one would take quadratic time."""
    if len(turns) == 1:
        return turns[0]
    content = "\n\n".join(turn.content for turn in turns)
    return Turn(turns[0].role, content, all(turn.is_trained for turn in turns))


def _end_with_trained_answer(turns: list[Turn], params: TurnParams, changes: Changes) -> list[Turn]:
    """Remove a last message of the user, and last answers that the model should not learn."""
    has_answer = any(turn.role == "assistant" for turn in turns)
    if has_answer and turns[-1].role == "user":
        words = "a last message that the assistant does not answer is dropped"
        _apply(params.trailing_user, "trailing_user", words, changes)
        turns = turns[:-1]
    while turns and turns[-1].role == "assistant" and not turns[-1].is_trained:
        changes["a last answer that is not to be trained on (weight 0) is dropped with its question"] += 1
        turns = turns[:-2]
    if has_answer and not turns:
        raise UnusableRecord("not_trained_on", "No message of the assistant is to be trained on (weight 0).")
    return turns
