"""Compile kernels to machine code, which is kept between runs and compiled again when any of its sources changes.

numba's own cache compares only the file in which a function is defined. A function that is inlined from another file
could change without notice, and the old machine code would continue to run. Therefore the cache folder of a module is
named after the contents of every file that the module imports, directly or indirectly.
"""

import ast
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

PROJECT = Path(__file__).parents[1]

_waiting: list[tuple[Any, str]] = []  # kernels that are not compiled yet, in the order of their definition
_is_deferred = False


def kernel(signature: str, inline: str = "never") -> Callable[[Function], Function]:
    """Compile the decorated function when its module is imported.

    signature: the types of result and arguments in numba's notation, such as "int64(uint64[::1])". The function is
    compiled for these types only. It must not use Python objects, and it releases the GIL while it runs.
    inline: "always" copies the function into its callers, which is faster for functions of a few instructions.
    """

    def decorate(function: Function) -> Function:
        # numba chooses the cache folder of a function at the moment of decoration, from this global setting.
        default_folder = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(cache_folder(function.__module__, PROJECT))
        try:
            dispatcher = numba.njit(nogil=True, cache=True, inline=inline)(function)
        finally:
            numba.config.CACHE_DIR = default_folder
        _waiting.append((dispatcher, signature))
        if not _is_deferred:
            compile_waiting()
        return cast(Function, dispatcher)

    return decorate


@contextmanager
def deferred() -> Iterator[None]:
    """Leave kernels of modules that are imported in the block to `compile_waiting`, which is called before their use.

    The first compilation takes half a minute, for which a check of params should not wait.
    """
    global _is_deferred
    before, _is_deferred = _is_deferred, True
    try:
        yield
    finally:
        _is_deferred = before


def compile_waiting(package: str = "", last_first: bool = False) -> None:
    """Compile the kernels that wait for it, all or those of a package, in the order of their definition or backward."""
    for dispatcher, signature in _waiting.copy()[:: -1 if last_first else 1]:
        if not package or dispatcher.py_func.__module__.startswith(f"{package}."):
            dispatcher.compile(signature)
            dispatcher.disable_compile()  # for other types
            _waiting.remove((dispatcher, signature))


@cache
def cache_folder(module: str, project: Path) -> Path:
    """Return the folder for the machine code of `module`, named after the contents of its source files.

    Folders of earlier contents are removed. The result is kept for the process: files do not change while it runs.
    """
    source = b"".join(path.read_bytes() for path in sorted(source_files(module, project)))
    file = _file_of(module, project)
    assert file is not None, module
    folder = file.parent / "__pycache__" / f"kernels-{file.stem}-{hashlib.sha256(source).hexdigest()[:16]}"
    for other_folder in folder.parent.glob(f"kernels-{file.stem}-*"):
        if other_folder != folder:
            shutil.rmtree(other_folder, ignore_errors=True)
    return folder


def source_files(module: str, project: Path) -> set[Path]:
    """Return the file of `module` and the files of all modules below `project` that it imports, directly or indirectly.

    Imports are read from the syntax tree. So they are found in any folder, however they are written, and libraries are
    excluded because they have no file below `project`.
    """
    files, waiting = set[Path](), [module]
    while waiting:
        file = _file_of(waiting.pop(), project)
        if file is not None and file not in files:
            files.add(file)
            waiting += _imported_modules(file)
    return files


def _imported_modules(file: Path) -> list[str]:
    """Return every module that `file` may import.

    `from a import b` imports the module a.b, or something that module a defines; the syntax does not show which. Both
    are returned, and one of the two may not exist.
    """
    modules: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{file}: replace the relative import by an absolute one, which this search follows"
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return modules


def _file_of(module: str, project: Path) -> Path | None:
    """Return the source file of `module` below `project`; None for a module of a library."""
    path = project.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
