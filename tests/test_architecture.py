"""Rules of the structure: which file may import which, how large a file, a function or a folder may be."""

import ast
from pathlib import Path

import pytest
import yaml

from tests.sources import ROOT, files, imports

OURS = files("tasks", "flows")
# What ground files may stand on: how a mistake is told, how a file is written, how a file is found by its name.
FOUNDATION = {"tasks.errors", "tasks.files", "tasks.catalog", "tasks.peft"}
TRACKER, VERSIONER = Path("flows/runtime/tracking.py"), Path("flows/runtime/versioning.py")
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_FOLDER_MODULES = 400, 60, 24
# Imports of one module from a module of another subpackage. training/stages composes the others, so it does not count.
MAX_IMPORTS_BETWEEN = {"curation": 45, "training": 20}
LAYERS = {  # of tasks/training/, from the bottom up: none imports one that stands after it
    "training": ["parallel", "shape", "adapters", "loop", "language", "preferences", "rl", "estimate", "stages"],
    "curation": ["text", "signals", "classifier", "filters", "duplicates", "contamination", "privacy"],
}
MAX_TRAINING_DEPS = 40
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}


def package(path: Path) -> str:
    """The package of tasks/ that a file belongs to; empty for a ground file."""
    return path.parts[1] if path.parts[0] == "tasks" and len(path.parts) > 2 else ""


def top(module: str) -> str:
    return module.split(".")[0]


def may_import(path: Path, module: str) -> bool:
    """The table of the plan, row by row."""
    if top(module) in ("mlflow", "dvc"):
        return path == {"mlflow": TRACKER, "dvc": VERSIONER}[top(module)]
    if top(module) == "prefect":
        return path.parts[0] == "flows" or (package(path) != "" and path.name == "tasks.py")
    if top(module) == "flows":
        return path.parts[0] == "flows"
    if top(module) != "tasks" or module in FOUNDATION or module == "tasks":
        return True
    parts = module.split(".")
    ground = not (ROOT / "tasks" / parts[1]).is_dir()
    if path.parts[0] == "flows":
        return ground or len(parts) == 2 or parts[2] == "tasks"
    return package(path) != "" and (ground or parts[1] == package(path))


@pytest.mark.parametrize("path", OURS, ids=str)
def test_imports_follow_the_table(path: Path) -> None:
    wrong = sorted(module for module in imports(path) if not may_import(path, module))
    assert not wrong, f"{path} may not import {', '.join(wrong)}"


def test_no_import_circle() -> None:
    names = {str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in OURS}
    left = {name: {other for other in imports(path) if other in names} - {name} for name, path in names.items()}
    while left:
        free = {name for name, found in left.items() if not found & left.keys()}
        assert free, f"a circle among {', '.join(sorted(left))}"
        left = {name: found for name, found in left.items() if name not in free}


@pytest.mark.parametrize("path", OURS, ids=str)
def test_files_and_functions_are_short(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES, f"{path} is too long: split it by what it is about"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name} has {length} lines"


def subpackage(module: str, package: str) -> str:
    """The subpackage of tasks/<package>/ that a module belongs to; empty for a module of the package's own folder."""
    parts = module.split(".")
    return (
        parts[2]
        if parts[:2] == ["tasks", package] and (ROOT / "tasks" / package / "/".join(parts[2:3])).is_dir()
        else ""
    )


def between(package: str) -> list[tuple[str, str, str, str]]:
    """(module, imported module, subpackage, imported subpackage) of every import from one subpackage to another."""
    found = []
    for path in files(f"tasks/{package}"):
        module = str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for other in imports(path):
            ours, theirs = subpackage(module, package), subpackage(other, package)
            if ours and theirs and ours != theirs:
                found.append((module, other, ours, theirs))
    return found


@pytest.mark.parametrize("package", LAYERS)
def test_subpackages_are_layers(package: str) -> None:
    order = LAYERS[package]
    upward = [
        f"{module} imports {other}" for module, other, a, b in between(package) if order.index(b) > order.index(a)
    ]
    assert not upward, f"a lower layer imports a higher one: {'; '.join(upward)}"
    counted = [edge for edge in between(package) if edge[2] != "stages"]
    assert len(counted) <= MAX_IMPORTS_BETWEEN[package], f"{len(counted)} imports between subpackages of {package}"


def test_folders_are_small() -> None:
    for folder in {path.parent for path in OURS}:
        modules = [path for path in OURS if path.parent == folder]
        assert len(modules) <= MAX_FOLDER_MODULES, f"{folder} has {len(modules)} modules: give it subpackages"


def test_dvc_yaml_names_folders_of_training() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = [dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("tasks/training")]
    assert len(named) <= MAX_TRAINING_DEPS


def test_no_file_is_a_dump() -> None:
    assert not [path for path in OURS if FORBIDDEN_NAMES & {path.stem, *path.parts}]


def test_the_rules_would_notice() -> None:
    """The table itself, by hand: each of these has a row."""
    filters = Path("tasks/curation/filters/c4.py")
    assert may_import(filters, "tasks.documents")
    assert may_import(filters, "tasks.curation.signals.signals")
    assert not may_import(filters, "tasks.training.loop.training_loop")
    assert not may_import(filters, "prefect")
    assert not may_import(Path("tasks/tables.py"), "prefect")
    assert not may_import(Path("tasks/tables.py"), "tasks.documents")
    assert may_import(Path("tasks/curation/tasks.py"), "prefect")
    assert may_import(Path("flows/curation.py"), "tasks.curation.tasks")
    assert not may_import(Path("flows/curation.py"), "tasks.curation.signals.signals")
    assert not may_import(Path("flows/pipeline.py"), "mlflow.entities")
    assert not may_import(Path("tasks/models.py"), "flows.runtime.params")
