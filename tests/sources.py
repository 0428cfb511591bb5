"""The imports of the project's own files, read with `ast`."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


def files(*folders: str) -> list[Path]:
    """Return every Python file below `folders`, relative to the project."""
    return sorted(path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the modules that `path` imports, except for types only; `from a import b` is a.b if that is a module."""
    modules: set[str] = set()
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    only_for_types = {inner for block in blocks for inner in ast.walk(block)}
    for node in set(ast.walk(tree)) - only_for_types:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in names if module_file(name)}
            modules |= submodules | ({str(node.module)} if submodules != names else set())
    return frozenset(modules)


def module_file(module: str) -> Path | None:
    """Return the file of a module of the project; None for a module of another package."""
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None


def reachable(path: Path, top_folder: str) -> set[Path]:
    """Return `path` and the files below the folder `within` that it imports, directly or indirectly."""
    visited, waiting = set[Path](), [path]
    while waiting:
        file = waiting.pop()
        if file not in visited:
            visited.add(file)
            paths = [module_file(name) for name in imports(file)]
            waiting += [path for path in paths if path and path.parts[0] == top_folder]
            if file.name == "__init__.py" and "tasks.catalog" in imports(
                file
            ):  # it finds the files of its folder by name
                waiting += [path.relative_to(ROOT) for path in (ROOT / file).parent.glob("*.py")]
    return visited
