"""Tables, bars and histograms of the pages: what they show, and that text is never read as markup."""

import re

from tasks.pages import bars, charts, document, table


def test_a_table_counts_what_it_leaves_out() -> None:
    text = table([{"file_name": "<b>", "rows": 1200}, {"file_name": "b", "rows": 3}], max_rows=1)
    assert '<th>file name</th><th class="number">rows</th>' in text
    assert '<td>&lt;b&gt;</td><td class="number">1,200</td>' in text
    assert "1 more rows are not shown." in text
    assert table([]) == "<p>None.</p>"


def test_bars_are_as_long_as_their_values() -> None:
    text = bars([("read", 40, "40 <i>"), ("kept", 10, "10"), ("none", 0, "0")], is_bad=True)
    assert re.findall(r"width: ([\d.]+)%", text) == ["100.0", "25.0", "0.4"]
    assert "40 &lt;i&gt;" in text
    assert 'class="bars bad"' in text
    assert bars([]).count("<tr>") == 0


def test_a_histogram_has_a_bar_for_each_count_and_a_line_for_each_bound() -> None:
    chart = charts.histogram([1, 0, 4], [0, 1, 2, 3], [1.5])
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"/>', chart)]
    assert len(heights) == 2
    assert heights[1] == 4 * heights[0] == charts.HEIGHT - charts.BOTTOM - charts.TOP
    (x,) = re.findall(r'class="bound" x1="([\d.]+)"', chart)
    assert float(x) == charts.LEFT + (charts.WIDTH - charts.LEFT - charts.RIGHT) / 2


def test_a_document_has_the_design_and_escapes_its_texts() -> None:
    page = document("A & B", "<p>body</p>", "x < y")
    assert "<h1>A &amp; B</h1>\n<p>x &lt; y</p>\n<p>body</p>" in page
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"https?://|@import|url\(", page)
