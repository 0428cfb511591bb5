"""The documented objects of a Python file, read with `ast`: no code of the file is imported or run."""

import ast
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_QUOTES = b'"""'


class UnparsablePython(ValueError):
    """The file is not Python code that this interpreter can parse."""


@dataclass(frozen=True, slots=True)
class DocumentedObject:
    """A module, class or function with its docstring. `line` is the line of its definition, 0 for a module."""

    kind: Literal["module", "class", "function"]
    name: str  # qualified name, such as pathlib.Path.glob
    docstring: str
    line: int
    arguments: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """Return name, arguments and docstring in the format of a manual."""
        call = f"({', '.join(self.arguments)})" if self.kind == "function" else ""
        return f"{self.name}{call}\n\n{self.docstring}"

    @property
    def first_paragraph(self) -> str:
        """Return the first paragraph of the docstring on one line."""
        return " ".join(self.docstring.split("\n\n", 1)[0].split())


def docstring_share(source: bytes) -> float:
    """Return the share of bytes between triple double quotes: a fast estimate of which files are worth parsing."""
    quoted = source.split(_QUOTES)[1::2]
    return sum(map(len, quoted)) / max(1, len(source))


def documented_objects(source: bytes, module: str) -> Iterator[DocumentedObject]:
    """Yield the public objects of `module` that have a docstring, in file order. Raises UnparsablePython."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in the code of others
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnparsablePython(f"{type(error).__name__}: {error}") from None
    if docstring := _docstring(tree):
        yield DocumentedObject("module", module, docstring, 0)
    yield from _members(tree, module)


def _members(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[DocumentedObject]:
    for node in parent.body:
        if not isinstance(node, (ast.ClassDef, *_FUNCTIONS)) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        if docstring := _docstring(node):
            if isinstance(node, ast.ClassDef):
                yield DocumentedObject("class", name, docstring, node.lineno)
            else:
                yield DocumentedObject("function", name, docstring, node.lineno, _arguments(node.args))
        if isinstance(node, ast.ClassDef):
            yield from _members(node, name)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    if node.body and isinstance(first := node.body[0], ast.Expr) and isinstance(first.value, ast.Constant):
        value = first.value.value
        return inspect.cleandoc(value).strip() if isinstance(value, str) else ""
    return ""


def _arguments(arguments: ast.arguments) -> tuple[str, ...]:
    """Return the names of the arguments, without `self` and `cls`."""
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    if names[:1] in (["self"], ["cls"]):
        del names[0]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    names.extend(a.arg for a in arguments.kwonlyargs)
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return tuple(names)
