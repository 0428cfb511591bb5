"""Small SVG charts. They need no script and use the colors of the page, light or dark."""

from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 300, 132  # in SVG units; the page scales a chart to the width of its card
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22  # margins of a line chart
MIN_NAME_WIDTH, VALUE_WIDTH, ROW_HEIGHT = 70, 62, 24  # columns and rows of an interval chart
CHARACTER_WIDTH, NUM_COLORS = 8, 4  # of a letter of a name; of the page
LEGEND_HEIGHT = 12  # of a line of the legend


def line_chart(lines: Mapping[str, Points], x_label: str = "step") -> str:
    """A line through the (x, y) points of each name, on common axes; an empty string if there are no points.

    Several lines have a legend. A line of one point is drawn as a dot.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_range, y_range = _axis_range(xs, 0.0), _axis_range(ys, 0.06)
    body = "".join(_y_tick(y, y_range) for y in _ticks(*y_range))
    for index, (name, line) in enumerate(lines.items()):
        coordinates = _coordinates(line, x_range, y_range)
        color = f"c{index % NUM_COLORS}"
        if len(line) == 1:
            x, y = coordinates.split(",")
            body += f'<circle class="dot {color}" cx="{x}" cy="{y}" r="3"/>'
        else:
            body += f'<polyline class="line {color}" points="{coordinates}"/>'
        if len(lines) > 1:
            place = TOP + LEGEND_HEIGHT * index
            body += f'<text class="end legend {color}" x="{WIDTH - RIGHT}" y="{place + 4}">{escape(name)}</text>'
    body += f'<text x="{LEFT}" y="{HEIGHT - 6}">{format_number(min(xs))}</text>'
    body += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" class="end">{escape(x_label)} {format_number(max(xs))}</text>'
    return _svg(HEIGHT, body)


def interval_chart(
    rows: Sequence[tuple[str, Mapping[str, float]]], mark: float | None = None, mark_label: str = ""
) -> str:
    """One row per (name, score): a dot at the value, a bar for the interval, and the value as a number.

    `mark` is a value to compare with, such as chance; it is drawn as a dashed line with `mark_label` below it.
    """
    if not rows:
        return ""
    ends = [score[end] for _, score in rows for end in ("low", "high")] + ([] if mark is None else [mark])
    low_end, high_end = _axis_range(ends, 0.08)
    height = ROW_HEIGHT * len(rows) + (26 if mark is not None else 10)

    names = [name.replace("_", " ") for name, _ in rows]
    name_width = min(WIDTH // 2, max(MIN_NAME_WIDTH, CHARACTER_WIDTH * max(map(len, names)) + 6))

    def x(value: float) -> float:
        share = (value - low_end) / (high_end - low_end)
        return round(name_width + share * (WIDTH - name_width - VALUE_WIDTH), 1)

    body = ""
    if mark is not None:
        body += f'<line class="mark" x1="{x(mark)}" x2="{x(mark)}" y1="2" y2="{height - 18}"/>'
        body += f'<text class="middle" x="{x(mark)}" y="{height - 5}">{escape(mark_label)}</text>'
    for index, (name, (_, score)) in enumerate(zip(names, rows, strict=True)):
        color = f"s{index % NUM_COLORS}"
        y = 4 + ROW_HEIGHT * (index + 0.5)
        value, low, high, n = (score[part] for part in ("value", "low", "high", "n"))
        tooltip = f"{name}: {format_number(value)} ({format_number(low)} to {format_number(high)}, n = {n:.0f})"
        body += (
            f"<g><title>{escape(tooltip)}</title>"
            f'<text class="name" x="{name_width - 6}" y="{y + 4}">{escape(name)}</text>'
            f'<line class="whisker {color}" x1="{x(low)}" x2="{x(high)}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot {color}" cx="{x(value)}" cy="{y}" r="4.5"/>'
            f'<text class="value" x="{WIDTH}" y="{y + 4}">{format_number(value)}</text></g>'
        )
    return _svg(height, body)


def histogram(counts: Sequence[float], edges: Sequence[float], bounds: Sequence[float] = ()) -> str:
    """A bar from edges[i] to edges[i + 1] with the height counts[i]; `bounds` are drawn as lines across the bars."""
    x_range, top = (edges[0], edges[-1]), max(counts) or 1.0
    width = (WIDTH - LEFT - RIGHT) / (x_range[1] - x_range[0])
    base = HEIGHT - BOTTOM
    body = ""
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        height = count / top * (base - TOP)
        if height:
            body += (
                f'<rect class="fill" x="{LEFT + (left - x_range[0]) * width:.1f}" y="{base - height:.1f}" '
                f'width="{(right - left) * width:.2f}" height="{height:.1f}"/>'
            )
    for bound in bounds:
        x = LEFT + (bound - x_range[0]) * width
        body += f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{base}"/>'
    body += f'<text x="{LEFT}" y="{HEIGHT - 6}">{format_number(x_range[0])}</text>'
    body += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" class="end">{format_number(x_range[1])}</text>'
    return _svg(HEIGHT, body)


def format_number(value: float) -> str:
    """A number with about three significant digits; a narrow no-break space separates thousands."""
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


def _axis_range(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Smallest and largest value with `margin` (a share of their distance) around them; never an empty range."""
    low, high = min(values), max(values)
    space = (high - low) * margin or abs(high) * margin or 1.0
    return low - space * (margin > 0 or low == high), high + space


def _coordinates(points: Points, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    def scale(value: float, axis: tuple[float, float], start: float, end: float) -> float:
        return round(start + (value - axis[0]) / (axis[1] - axis[0]) * (end - start), 1)

    return " ".join(
        f"{scale(x, x_range, LEFT, WIDTH - RIGHT)},{scale(y, y_range, HEIGHT - BOTTOM, TOP)}" for x, y in points
    )


def _ticks(low: float, high: float) -> list[float]:
    return [low + (high - low) * share for share in (0.1, 0.5, 0.9)]


def _y_tick(value: float, y_range: tuple[float, float]) -> str:
    share = (value - y_range[0]) / (y_range[1] - y_range[0])
    y = round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text class="end" x="{LEFT - 6}" y="{y + 3.5}">{format_number(value)}</text>'
    )
