"""docs/transformer.md quotes code: each of its blocks is an exact part of test_transformer.py."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_quoted_block_is_code() -> None:
    code = (ROOT / "tests/training/shape/test_transformer.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/transformer.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        assert block in code
