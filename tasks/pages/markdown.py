"""Cells and tables of Markdown. What a cell contains is text: nothing in it is read as markup."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

MARKS = re.compile(r"[\\|`*\[\]]|(?<!\w)_|_(?!\w)")  # an underscore within a word is no markup
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def cell(value: Any) -> str:
    """A value as text on one line, for a cell of a table or an item of a list; whole numbers get separators."""
    text = f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
    return MARKS.sub(lambda mark: f"\\{mark.group()}", text.translate(ENTITIES))


def table(header: Sequence[str], rows: Iterable[Iterable[Any]], max_rows: int | None = None) -> list[str]:
    """The lines of a table; of more rows than `max_rows`, the last line states how many are left out."""
    all_rows = list(rows)
    lines = [_line(header), "|" + "---|" * len(header), *map(_line, all_rows[:max_rows])]
    if max_rows is not None and len(all_rows) > max_rows:
        lines.append(f"| {len(all_rows) - max_rows:,} more rows |" + " |" * (len(header) - 1))
    return lines


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(cell, cells))} |"
