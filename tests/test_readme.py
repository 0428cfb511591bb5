"""The README and the pages of docs/: the tree is generated from the code, YAML examples are valid, links exist.

`python -m tests.test_readme` writes docs/tree.md and docs/params.md again.
"""

import ast
import re
from pathlib import Path

import pytest
import yaml

from flows import params
from tasks.ingestion import tasks as ingestion

MAX_README_LINES = 220
TREE, PARAMS = Path("docs/tree.md"), Path("docs/params.md")
FOLDERS = ("tasks", "flows", "benchmarks")
PAGES = sorted([*Path().glob("*.md"), *Path("docs").rglob("*.md"), Path("benchmarks/README.md")])
HEAD = """# The tree

`data/` holds what the stages write, `tasks/` does the work (plain functions; only `tasks.py` of a package imports
Prefect), `flows/` defines the order, and `tests/` mirrors both. `tests/test_architecture.py` enforces which file may
import which. The phrase beside a file is the first clause of its docstring; `python -m tests.test_readme` writes this
page.
"""


def phrase(file: Path) -> str:
    """The first clause of a module's docstring."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split())
    return re.split(r"(?<=[.:;])\s", text)[0].rstrip(".:;")


def tree() -> str:
    """The page: every folder with its modules, each with its phrase."""
    lines = []
    for folder in sorted({file.parent for top in FOLDERS for file in Path(top).rglob("*.py")}):
        files = sorted(file for file in folder.glob("*.py") if file.name != "__init__.py")
        if files:
            lines += [f"\n## {folder}/\n", "| file | purpose |", "|---|---|"]
            lines += [f"| [{file.name}](../{file}) | {phrase(file).replace('|', chr(92) + '|')} |" for file in files]
    return HEAD + "\n".join(lines) + "\n"


def test_the_tree_is_generated_from_the_code() -> None:
    assert TREE.read_text(encoding="utf-8") == tree(), "run python -m tests.test_readme"


def test_every_setting_is_documented() -> None:
    assert PARAMS.read_text(encoding="utf-8") == params.page(), "run python -m tests.test_readme"


def test_the_readme_is_short() -> None:
    assert Path("README.md").read_text(encoding="utf-8").count("\n") <= MAX_README_LINES


def test_the_examples_are_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)
    sections = [yaml.safe_load(block) for block in blocks]
    assert "ratings" in ingestion.Params.model_validate(sections[0]["ingestion"]).sources
    assert sections[1]["sft"]["adapter"]["name"] == "lora"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page} links to {', '.join(missing)}"


if __name__ == "__main__":
    TREE.write_text(tree(), encoding="utf-8")
    PARAMS.write_text(params.page(), encoding="utf-8")
