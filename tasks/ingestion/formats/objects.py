"""Parse one JSON object. Input that could crash the native parser is rejected before it is parsed.

orjson is fast, but deeply nested input can overflow its stack, which ends the process instead of raising an exception.
It also keeps the last of two equal keys silently, so that one of two texts would be lost.
"""

import itertools
import json
import re
from collections.abc import Collection
from typing import Any

import orjson

from tasks.ingestion.decoding import UnusableRecord

MAX_DEPTH = 200  # real records have fewer than ten levels; some native parsers overflow the stack at a few thousand
# The possessive quantifier prevents backtracking, which would take quadratic time on a string that is never closed.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NOT_FINITE = re.compile(r"NaN|Infinity|\d[eE]\+?\d{3}")  # json.dump writes the first two; 1e400 is infinite
_BRACKET = re.compile(r"[\[\]{}]")


def parse_object(text: str, names: Collection[str] = ()) -> dict[str, Any]:
    """Return the object in `text`. Raises UnusableRecord, also if one of the keys `names` occurs twice in it."""
    value = _parse_value(text)
    if not isinstance(value, dict):
        raise UnusableRecord("not_an_object", f"The line is a JSON {type(value).__name__}, not an object with fields.")
    for name in value:  # counting is fast and settles the common case; only suspicious lines are parsed again
        if name in names and text.count(f'"{name}"') > 1:
            _check_single_key(text, name)
    return value


def _parse_value(text: str) -> Any:
    _check_depth(text)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if _NOT_FINITE.search(text) and (value := _parse_python_json(text)) is not None:
            return value
        reason = "lone_surrogate" if "surrogate" in error.msg else "invalid_json"
        raise UnusableRecord(reason, f"The JSON is invalid at character {error.pos}: {error.msg}.") from None
    if isinstance(value, dict) and any(isinstance(v, float) and abs(v) >= 2**63 for v in value.values()):
        return _parse_python_json(text) or value  # orjson reads integers of more than 64 bits as floats
    return value


def _parse_python_json(text: str) -> Any:
    """Parse JSON as Python writes it: with NaN, Infinity and integers of any size. Return None if it is invalid."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _check_depth(text: str) -> None:
    """Count all brackets, which is fast; only if there are many of them, measure how deeply they are nested."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    brackets = _BRACKET.findall(_STRING.sub("", text))
    depths = itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets)
    deepest = max(depths, default=0)
    if deepest > MAX_DEPTH:
        raise UnusableRecord("too_deep", f"The JSON has {deepest} nested levels; the maximum is {MAX_DEPTH}.")


def _check_single_key(text: str, name: str) -> None:
    """Raise UnusableRecord if the outer object has `name` twice. `text` is known to be valid and not too deep."""
    pairs = json.loads(text, object_pairs_hook=list)
    if sum(key == name for key, _ in pairs) > 1:
        raise UnusableRecord("duplicate_key", f"The object has the key {name!r} more than once.", name)
