"""Pages in one design, light and dark, wide and narrow, which need neither a network nor scripts."""

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from tasks.pages.markdown import table as markdown_table

__all__ = ["MAX_ROWS", "bars", "document", "markdown_table", "style", "table"]

MAX_ROWS = 50


@cache
def style() -> str:
    """The CSS of all pages."""
    return (Path(__file__).parent / "style.css").read_text(encoding="utf-8")


def document(title: str, body: str, introduction: str = "") -> str:
    """A whole page with its heading. body: HTML; introduction: plain text below the heading."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>Athanor · {escape(title)}</title>\n'
        f"<style>\n{style()}</style>\n<main>\n<h1>{escape(title)}</h1>\n<p>{escape(introduction)}</p>\n"
        f"{body}\n</main>\n</html>\n"
    )


def table(rows: Sequence[Mapping[str, Any]], max_rows: int = MAX_ROWS) -> str:
    """A table of rows with equal keys; whole numbers are aligned, and rows that are left out are counted."""
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th{_class(value)}>{escape(name.replace('_', ' '))}</th>" for name, value in rows[0].items())
    body = "".join("<tr>" + "".join(map(_cell, row.values())) + "</tr>" for row in rows[:max_rows])
    more = f"<p>{len(rows) - max_rows:,} more rows are not shown.</p>" if len(rows) > max_rows else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>{more}'


def bars(rows: Sequence[tuple[str, float, str]], *, is_bad: bool = False) -> str:
    """A bar for each (name, value, text behind the bar). is_bad: what is shown are losses."""
    top = max((value for _, value, _ in rows), default=0) or 1
    body = "".join(
        f'<tr><td>{escape(name)}<td><i style="width: {max(100 * value / top, 0.4):.1f}%"></i><td>{escape(text)}</tr>'
        for name, value, text in rows
    )
    return f'<div class="scroll"><table class="bars{" bad" if is_bad else ""}">{body}</table></div>'


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else escape(str(value))
    return f"<td{_class(value)}>{text}</td>"


def _class(value: Any) -> str:
    return ' class="number"' if isinstance(value, int) else ""
