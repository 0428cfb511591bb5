"""Which choice is the right one, as test sets state it: an index, a letter, or the text of the choice."""

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from tasks.evaluation.benchmarks.fields import FieldProblem

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def texts(name: str, value: Any) -> list[str]:
    """A list of texts, such as the choices; a cell of a CSV file may contain it as JSON. Raises FieldProblem."""
    value = written_list(value) or value
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise FieldProblem(
            f"{name} is not a list; expected a list, or an expression such as `= {name}.split(';')`", value
        )
    return [text(name, one) for one in value]


def written_list(value: Any) -> list[Any] | None:
    """The list that a text spells in JSON or Python, such as '["a", "b"]'; None for every other value."""
    if isinstance(value, str) and value.strip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                parsed = parse(value.strip())
                return parsed if isinstance(parsed, list) else None
    return None


def text(name: str, value: Any) -> str:
    """A text that is not empty; numbers become texts. Raises FieldProblem."""
    if isinstance(value, Mapping):
        raise FieldProblem(
            f"{name} has keys; name the one with the text, `KEY.text` or `= KEY | map(attribute='text') | list`", value
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        raise FieldProblem(f"{name} is not a text", value)
    if not str(value).strip():
        raise FieldProblem(f"{name} is empty")
    return str(value)


def index(value: Any, choices: Sequence[str], gold_is: str) -> int:
    """The index of the right one of `choices`. Raises FieldProblem if it is unknown or ambiguous."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 1:
            raise FieldProblem("gold has not exactly one value", value)
        value = value[0]
    if isinstance(value, bool):
        raise FieldProblem("gold is true or false; map it with `labels`, such as {true: 0, false: 1}", value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    readings = _readings(value, choices)
    if gold_is != "auto":
        readings = {kind: number for kind, number in readings.items() if kind == gold_is}
    elif isinstance(value, int):
        readings = {"index": readings["index"]} if "index" in readings else {}
    else:
        readings.pop("index_from_1", None)
    if len(set(readings.values())) == 1:
        return next(iter(readings.values()))
    if readings:
        raise FieldProblem(f"gold is ambiguous ({' or '.join(readings)}); set `gold_is`", value)
    kind = "the index, the letter or the text" if gold_is == "auto" else f"the {gold_is.replace('_', ' ')}"
    raise FieldProblem(f"gold is not {kind} of one of the choices", value)


def _readings(value: Any, choices: Sequence[str]) -> dict[str, int]:
    """What `value` can mean: kind -> index of a choice."""
    readings = {}
    stripped = str(value).strip()
    number = int(stripped) if stripped.lstrip("-").isdecimal() else None
    if number is not None and 0 <= number < len(choices):
        readings["index"] = number
    if number is not None and 1 <= number <= len(choices):
        readings["index_from_1"] = number - 1
    letter = stripped.strip("().:、．。）（ ").upper()
    if len(letter) == 1 and letter in LETTERS[: len(choices)]:
        readings["letter"] = LETTERS.index(letter)
    equal = [place for place, choice in enumerate(choices) if choice.strip() == stripped]
    if len(equal) == 1:
        readings["text"] = equal[0]
    return readings
