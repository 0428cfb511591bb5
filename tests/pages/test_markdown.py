"""Cells and tables of Markdown: text of any kind stays text, and rows that are left out are counted."""

from tasks.pages.markdown import cell, table


def test_a_cell_is_text_on_one_line() -> None:
    assert cell("a|b\n*c* `d` [e](f) <g> & h\\") == r"a\|b \*c\* \`d\` \[e\](f) &lt;g&gt; &amp; h" + "\\\\"
    assert cell("bits_per_byte _i_ 你好") == r"bits_per_byte \_i\_ 你好"
    assert [cell(1234567), cell(0.5), cell(None)] == ["1,234,567", "0.5", "None"]


def test_a_table_counts_what_it_leaves_out() -> None:
    assert table(("name", "n"), []) == ["| name | n |", "|---|---|"]
    rows = [("a", 1), ("b", 2000), ("c", 3)]
    assert table(("name", "n"), rows)[2:] == ["| a | 1 |", "| b | 2,000 |", "| c | 3 |"]
    assert table(("name", "n"), rows, max_rows=1)[2:] == ["| a | 1 |", "| 2 more rows | |"]
