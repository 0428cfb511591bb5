"""Texts for which a simple implementation takes quadratic time: their processing takes time in proportion to size."""

import pytest

from tasks.ingestion.sources import markdown


@pytest.mark.parametrize(
    "text",
    [
        "---\na: x" + " " * 1_000_000 + "y\n---\nb",
        "---\n" + "a\n" * 500_000,
        "---\n" + "a" * 1_000_000 + "\n---\n" + "# " * 500_000,
    ],
    ids=["spaces in a value", "no end", "one long line"],
)
def test_front_matter(text: str) -> None:
    """Quadratic time would be 10^12 / 2 steps, which do not end within the time limit of a test."""
    metadata, rest = markdown._split_front_matter(text)
    assert rest
    assert metadata.get("a", "x").startswith("x")
