"""Comparing two numbers; sorting, reversing and counting short lists of numbers or words."""

from typing import Any

from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn
from tasks.ingestion.skills.words import CHINESE_WORDS, ENGLISH_WORDS

NAME = "lists"
MAX_NUMBER, MAX_ITEMS, MAX_REVERSED = 50, 4, 3
# Relative frequencies: the order of a whole list is harder than one number of it.
KINDS = {
    "larger": 1, "smaller": 1, "ascending": 2, "descending": 2, "reversed": 2, "count": 1.5, "largest": 1,
    "smallest": 1.5,
}  # fmt: skip

_PATTERNS = load_patterns("lists")
COMPARE = _PATTERNS["compare"]
ORDERS = _PATTERNS["orders"]
COUNT = _PATTERNS["count"]
EXTREMES = _PATTERNS["extremes"]
NEXT = _PATTERNS["next"]


Items = tuple[Any, ...]  # numbers or words


def draw_turn(draw: Draw) -> Turn:
    """Compare two numbers, or do one thing with a list."""
    (kind,) = draw.rng.choices(list(KINDS), list(KINDS.values()))
    if kind in COMPARE:
        pair = draw.value(lambda: tuple(draw.rng.sample(range(MAX_NUMBER + 1), 2)))
        values = {"a": pair[0], "b": pair[1]}
        return draw.turn(
            NAME, COMPARE[kind][draw.language], values, solve(kind, pair, draw.language), items=pair, kind=kind
        )
    words = kind in ("count", "reversed") and draw.rng.random() < 0.5
    items: Items = draw.value(lambda: _items(draw, words, MAX_REVERSED if kind == "reversed" else MAX_ITEMS))
    patterns = {**ORDERS, **EXTREMES, "count": COUNT}[kind][draw.language]
    return draw.turn(
        NAME, patterns, {"list": _write_list(items, draw)}, solve(kind, items, draw.language), items=items, kind=kind
    )


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """Another thing with the same numbers or words."""
    items, kind = turn.state["items"], turn.state["kind"]
    if kind in COMPARE:
        kinds = ["smaller" if kind == "larger" else "larger"]
    elif isinstance(items[0], str):
        kinds = [other for other in ("reversed", "count") if other != kind and len(items) <= MAX_REVERSED]
        if not kinds:
            return None
    else:
        kinds = ["ascending", "descending", "count", "largest", "smallest"]
        kinds = [other for other in [*kinds, *(["reversed"] if len(items) <= MAX_REVERSED else [])] if other != kind]
    kind = draw.rng.choice(kinds)
    answer = solve(kind, items, draw.language)
    if kind == "reversed":  # of what was last answered, where that is a list
        shown = turn.answer.replace("，", ", ").split(", ")
        shown_items = tuple(shown) if len(shown) == len(items) else tuple(map(str, items))
        answer = _join(shown_items[::-1], draw.language)
        items = shown_items[::-1] if isinstance(items[0], str) else tuple(int(item) for item in shown_items[::-1])
    return draw.turn(NAME, NEXT[kind][draw.language], {}, answer, follows=True, items=items, kind=kind)


def solve(kind: str, items: Items, language: str) -> str:
    """The answer."""
    if kind in ("larger", "largest"):
        return str(max(items))
    if kind in ("smaller", "smallest"):
        return str(min(items))
    if kind == "count":
        return str(len(items))
    if kind == "reversed":
        return _join(items[::-1], language)
    return _join(tuple(sorted(items, reverse=kind == "descending")), language)


def _join(items: tuple[object, ...], language: str) -> str:
    return (", " if language == "en" else "，").join(map(str, items))


def _write_list(items: tuple[object, ...], draw: Draw) -> str:
    marks = (", ", ", ", " ", ",", " and ") if draw.language == "en" else ("，", "、", "、", " ", ",", "和")
    mark = draw.rng.choice(marks)
    if mark in (" and ", "和"):
        return (", " if draw.language == "en" else "、").join(map(str, items[:-1])) + mark + str(items[-1])
    return mark.join(map(str, items))


def _items(draw: Draw, words: bool, most: int) -> Items:
    count = draw.rng.randint(3, most)
    if words:
        return tuple(draw.rng.sample(ENGLISH_WORDS if draw.language == "en" else CHINESE_WORDS, count))
    return tuple(draw.rng.sample(range(draw.rng.choice((10, 20, MAX_NUMBER + 1))), count))
