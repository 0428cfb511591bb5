"""Small SVG charts for the page: no script, colors from the page's own variables, so that light and dark both fit."""

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 300, 132
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22


def line(points: Points, x_label: str = "step") -> str:
    """A line through (x, y) points; empty where there is none."""
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_range, y_range = _span(xs, 0.0), _span(ys, 0.06)
    grid = "".join(_y_tick(y, y_range) for y in _ticks(*y_range))
    drawn = f'<polyline class="line" points="{_path(points, x_range, y_range)}"/>'
    begin = f'<text x="{LEFT}" y="{HEIGHT - 6}">{number(min(xs))}</text>'
    end = f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" class="end">{escape(x_label)} {number(max(xs))}</text>'
    return _svg(HEIGHT, grid + drawn + begin + end)


def intervals(rows: Sequence[tuple[str, Mapping[str, float]]], mark: float | None = None, mark_label: str = "") -> str:
    """A row per (name, score): a dot at its value, a bar for its interval, the value; `mark`: what it must beat."""
    shown = [score[end] for _, score in rows for end in ("low", "high")] + ([] if mark is None else [mark])
    if not rows:
        return ""
    span = _span(shown, 0.08)
    right, row_height = 62, 24
    height = row_height * len(rows) + (26 if mark is not None else 10)

    def x(value: float) -> float:
        return round(70 + (value - span[0]) / (span[1] - span[0]) * (WIDTH - 70 - right), 1)

    body = ""
    if mark is not None:
        body += f'<line class="mark" x1="{x(mark)}" x2="{x(mark)}" y1="2" y2="{height - 18}"/>'
        body += f'<text class="middle" x="{x(mark)}" y="{height - 5}">{escape(mark_label)}</text>'
    for index, (name, score) in enumerate(rows):
        y = 4 + row_height * (index + 0.5)
        value, low, high, n = (score[part] for part in ("value", "low", "high", "n"))
        said = f"{name}: {number(value)} ({number(low)} to {number(high)}, n = {n:.0f})"
        body += (
            f"<g><title>{escape(said)}</title>"
            f'<text class="name" x="64" y="{y + 4}">{escape(name)}</text>'
            f'<line class="whisker s{index}" x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot s{index}" cx="{x(value)}" cy="{y}" r="4.5"/>'
            f'<text class="value" x="{WIDTH}" y="{y + 4}">{number(value)}</text></g>'
        )
    return _svg(height, body)


def number(value: float) -> str:
    """A number as a person reads it: about three digits that matter, thousands apart."""
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}".replace(",", "\u202f")
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.0005 else f"{value:.1e}"


def _svg(height: float, body: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img">{body}</svg>'


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return low - room * (margin > 0 or low == high), high + room


def _path(points: Points, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    def place(value: float, span: tuple[float, float], begin: float, end: float) -> float:
        return round(begin + (value - span[0]) / (span[1] - span[0]) * (end - begin), 1)

    return " ".join(
        f"{place(x, x_range, LEFT, WIDTH - RIGHT)},{place(y, y_range, HEIGHT - BOTTOM, TOP)}" for x, y in points
    )


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * share for share in (0.1, 0.5, 0.9)]


def _y_tick(value: float, span: tuple[float, float]) -> str:
    y = round(HEIGHT - BOTTOM - (value - span[0]) / (span[1] - span[0]) * (HEIGHT - BOTTOM - TOP), 1)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class="end" x="{LEFT - 6}" y="{y + 3.5}">{number(value)}</text>'
    )
