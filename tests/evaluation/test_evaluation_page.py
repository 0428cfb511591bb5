"""docs/evaluation.md quotes code and lists scores: every quote is part of the code, every metric file is listed."""

import re

from tasks import catalog
from tests.sources import ROOT

PAGE = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")


def test_every_quote_is_part_of_the_code() -> None:
    sources = [
        path.read_text(encoding="utf-8")
        for path in [*(ROOT / "tasks/evaluation").rglob("*.py"), ROOT / "tasks/reports.py"]
    ]
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        assert any(block in source for source in sources), (
            f"docs/evaluation.md quotes what is not in the code:\n{block}"
        )


def test_every_metric_is_listed() -> None:
    scores = set(catalog.names("tasks.evaluation.metrics")) - {"samples"}  # a table for people to read
    assert not [name for name in scores if f"`{name}.py`" not in PAGE]
