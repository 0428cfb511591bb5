"""docs/transformer.md quotes live code: each of its blocks stands in test_transformer.py, letter for letter."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_quoted_block_is_live() -> None:
    code = (ROOT / "tests/training/shape/test_transformer.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/transformer.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        assert block in code
