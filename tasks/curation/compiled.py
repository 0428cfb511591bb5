"""Machine code for the kernels, kept between runs and compiled again whenever the source of any kernel changes.

numba's own cache looks only at the file of a function, so it would keep stale code that it inlined from other files.
"""

import ast
import hashlib
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

PROJECT = Path(__file__).parents[2]


def kernel(signature: str, inline: str = "never") -> Callable[[Function], Function]:
    """Compile a function for one signature (numba's notation), without the GIL."""

    def decorate(function: Function) -> Function:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(_cache_folder(function.__module__, PROJECT))
        try:
            return cast(Function, numba.njit(signature, nogil=True, cache=True, inline=inline)(function))
        finally:
            numba.config.CACHE_DIR = before

    return decorate


@cache
def _cache_folder(module: str, project: Path) -> Path:
    """The folder for the machine code of `module`: one for each state of the source files that it is compiled from.

    The folders of earlier states of the same module are removed.
    """
    source = b"".join(path.read_bytes() for path in sorted(source_files(module, project)))
    file = _file_of(module, project)
    assert file is not None, module
    folder = file.parent / "__pycache__" / f"kernels-{file.stem}-{hashlib.sha256(source).hexdigest()[:16]}"
    for old in folder.parent.glob(f"kernels-{file.stem}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def source_files(module: str, project: Path) -> set[Path]:
    """The file of `module` and the files of all modules below `project` that it imports, directly or not.

    Imports are read from the syntax tree, so that their place in the tree and the way they are written do not matter.
    """
    files, waiting = set[Path](), [module]
    while waiting:
        file = _file_of(waiting.pop(), project)
        if file is not None and file not in files:
            files.add(file)
            waiting += _imported(file)
    return files


def _imported(file: Path) -> list[str]:
    """Every module that `file` may import; `from a import b` gives a and a.b, one of which may not exist."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{file}: imports are written in full, so that the sources of a kernel can be found"
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return modules


def _file_of(module: str, project: Path) -> Path | None:
    """The source file of `module` below `project`; None for a library."""
    path = project.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
