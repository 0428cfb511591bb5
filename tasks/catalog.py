"""Find a source, filter, stage, adapter or metric by its file name: the file is the registration."""

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from tasks.errors import BadParams


def names(package: str) -> list[str]:
    """The modules of `package` (such as "tasks.curation.filters"), sorted, without importing them."""
    paths = importlib.import_module(package).__path__
    return sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_"))


@functools.cache
def find(package: str, name: str) -> ModuleType:
    """The module `name` of `package`. Raises BadParams, naming the right names, when there is none."""
    known = names(package)
    if name not in known:
        kind = package.rsplit(".", 1)[-1].removesuffix("s")
        raise BadParams(f"no {kind} {name!r}; {nearest(name, known)}")
    return importlib.import_module(f"{package}.{name}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say to someone who wrote `name` and may have meant one of `known`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}there are: {', '.join(known)}"
