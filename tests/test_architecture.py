"""Rules of the structure: which file may import which, how large a file, a function or a folder may be."""

import ast
from pathlib import Path

import pytest
import yaml

from tests.sources import ROOT, files, imports

MODULES = files("tasks", "flows")
# The only files of tasks/ that shared files such as tasks/documents.py may import. Others are formats or
# readers that others are built on: pairs.py on token files, generation.py on batches of answers.
FOUNDATION = {
    "tasks.errors", "tasks.files", "tasks.catalog", "tasks.peft", "tasks.tokens", "tasks.answers", "tasks.addresses",
    "tasks.chat_templates", "tasks.chat_layout",
}  # fmt: skip
# Packages that are built on others: a comparison uses the intervals and directions of evaluation, a promotion compares.
BUILT_ON = {
    "comparison": {"evaluation"},
    "promotion": {"comparison", "evaluation"},
    "precompilation": {"training"},  # whose compiler it calls
}
# Forward passes, which training, evaluation and the chat share; the engine, which runs functions of any package; the
# design of the pages.
FOUNDATION_PACKAGE = ("tasks.causal", "tasks.engine", "tasks.pages")
RESTRICTED = {  # package -> the only files that may import it
    "mlflow": {Path(f"flows/runtime/{name}.py") for name in ("sender", "tracked_runs", "server_apps")}
    | {Path("flows/versions/mlflow_aliases.py")},
    "dvc": {Path("flows/runtime/versioning.py"), Path("flows/versions/contents.py")},
}
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_FOLDER_MODULES = 400, 60, 24
# Imports of a module from another subpackage. Those of training/stages, which composes the others, do not count.
MAX_IMPORTS_BETWEEN = {"ingestion": 35, "curation": 46, "training": 20}
LAYERS = {  # the subpackages of a package, from the bottom up: none imports a later one
    "training": ["parallel", "shape", "adapters", "loop", "language", "preferences", "rl", "estimate", "stages"],
    "ingestion": ["removal", "files", "formats", "skills", "feedback", "division", "sources"],
    "curation": [
        "text",
        "signals",
        "classifier",
        "language_model",
        "filters",
        "duplicates",
        "contamination",
        "privacy",
    ],
}
MAX_TRAINING_DEPS = 40
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc"}


def package(path: Path) -> str:
    """Return the package of tasks/ that a file belongs to; empty for a shared file."""
    return path.parts[1] if path.parts[0] == "tasks" and len(path.parts) > 2 else ""


def top(module: str) -> str:
    return module.split(".")[0]


def may_import(path: Path, module: str) -> bool:
    """Whether the table of allowed imports (docs/architecture) allows `path` to import `module`."""
    if top(module) in RESTRICTED:
        return path in RESTRICTED[top(module)]
    if top(module) == "prefect":
        return path.parts[0] == "flows" or (package(path) != "" and path.name == "tasks.py")
    if top(module) == "flows":
        return path.parts[0] == "flows"
    if top(module) != "tasks" or module in FOUNDATION or module == "tasks" or module.startswith(FOUNDATION_PACKAGE):
        return True
    parts = module.split(".")
    is_shared = not (ROOT / "tasks" / parts[1]).is_dir()
    if path.parts[0] == "flows":
        return is_shared or len(parts) == 2 or parts[2] == "tasks"
    return package(path) != "" and (is_shared or parts[1] in {package(path), *BUILT_ON.get(package(path), ())})


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_follow_the_table(path: Path) -> None:
    forbidden = sorted(module for module in imports(path) if not may_import(path, module))
    assert not forbidden, f"{path} may not import {', '.join(forbidden)}"


def test_there_is_no_import_cycle() -> None:
    names = {str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__"): path for path in MODULES}
    remaining = {name: {other for other in imports(path) if other in names} - {name} for name, path in names.items()}
    while remaining:  # remove the modules that import no remaining module, until none is left
        removable = {name for name, imported in remaining.items() if not imported & remaining.keys()}
        assert removable, f"an import cycle among {', '.join(sorted(remaining))}"
        remaining = {name: imported for name, imported in remaining.items() if name not in removable}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_files_and_functions_are_short(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES, f"{path} is too long: split it by subject"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name} has {length} lines"


def subpackage(module: str, package: str) -> str:
    """Return the subpackage of tasks/<package>/ that contains a module; empty if there is none."""
    parts = module.split(".")
    return (
        parts[2]
        if parts[:2] == ["tasks", package] and (ROOT / "tasks" / package / "/".join(parts[2:3])).is_dir()
        else ""
    )


def imports_between(package: str) -> list[tuple[str, str, str, str]]:
    """Return (module, imported module, subpackage, imported subpackage) of each import from another subpackage."""
    edges = []
    for path in files(f"tasks/{package}"):
        module = str(path.with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for imported in imports(path):
            source, target = subpackage(module, package), subpackage(imported, package)
            if source and target and source != target:
                edges.append((module, imported, source, target))
    return edges


@pytest.mark.parametrize("package", LAYERS)
def test_subpackages_are_layers(package: str) -> None:
    order = LAYERS[package]
    upward = [
        f"{module} imports {imported}"
        for module, imported, source, target in imports_between(package)
        if order.index(target) > order.index(source)
    ]
    assert not upward, f"a lower layer imports a higher one: {'; '.join(upward)}"
    counted = [edge for edge in imports_between(package) if edge[2] != "stages"]
    assert len(counted) <= MAX_IMPORTS_BETWEEN[package], f"{len(counted)} imports between subpackages of {package}"


def is_command(path: Path) -> bool:
    """Whether `python -m flows.NAME` runs a file. Commands stand side by side in flows/, however many there are."""
    return path.parent == Path("flows") and '__name__ == "__main__"' in (ROOT / path).read_text(encoding="utf-8")


def test_folders_are_small() -> None:
    for folder in {path.parent for path in MODULES}:
        modules = [path for path in MODULES if path.parent == folder and not is_command(path)]
        assert len(modules) <= MAX_FOLDER_MODULES, f"{folder} has {len(modules)} modules: give it subpackages"


def test_dvc_yaml_lists_folders_of_training() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    deps = [dep for stage in stages.values() for dep in stage["deps"] if dep.startswith("tasks/training")]
    assert len(deps) <= MAX_TRAINING_DEPS


def test_no_file_has_a_forbidden_name() -> None:
    assert not [path for path in MODULES if FORBIDDEN_NAMES & {path.stem, *path.parts}]


def test_the_rules_notice_violations() -> None:
    """One or more examples for each row of the table."""
    filters = Path("tasks/curation/filters/c4.py")
    assert may_import(filters, "tasks.documents")
    assert may_import(filters, "tasks.curation.signals.signals")
    assert not may_import(filters, "tasks.training.loop.training_loop")
    assert not may_import(filters, "prefect")
    assert may_import(Path("tasks/comparison/paired.py"), "tasks.evaluation.intervals")
    assert not may_import(Path("tasks/evaluation/gates.py"), "tasks.comparison.paired")
    assert not may_import(Path("tasks/tables.py"), "prefect")
    assert not may_import(Path("tasks/tables.py"), "tasks.documents")
    assert may_import(Path("tasks/curation/tasks.py"), "prefect")
    assert may_import(Path("flows/curation.py"), "tasks.curation.tasks")
    assert not may_import(Path("flows/curation.py"), "tasks.curation.signals.signals")
    assert not may_import(Path("flows/pipeline.py"), "mlflow.entities")
    assert not may_import(Path("tasks/models.py"), "flows.runtime.params")
