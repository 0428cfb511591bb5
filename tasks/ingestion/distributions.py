"""The Python packages installed in the running environment: their files and what their metadata say.

Paths are relative to where a package is installed, so that two checkouts with the same packages see the same.
"""

import csv
import hashlib
import importlib.metadata
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OURSELVES = "athanor"
DOCUMENTS = (".md", ".rst", ".txt")
# written by installers for themselves, or test suites and data: nothing that a person reads
_NOT_READ = re.compile(
    r"(^|/)(\.\.|__pycache__|tests?|testing|test_data|lib2to3|idlelib|turtledemo|(site|dist)-packages)/|"
    r"(^|/)(conftest\.py|_sysconfigdata[^/]*|test_[^/]*|(top_level|entry_points|SOURCES|requires|dependency_links)\.txt)$"
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed package. `files` lists its Python and text files, in an order that depends on their names alone."""

    name: str
    version: str
    summary: str
    readme: str
    root: Path
    list_files: Callable[[], Sequence[str]]

    def files(self) -> list[str]:
        """Paths relative to `root`, shuffled by a hash of the name, so that the first ones come from all over it."""
        wanted = [f for f in self.list_files() if f.endswith((".py", *DOCUMENTS)) and not _NOT_READ.search(f)]
        return sorted(set(wanted), key=lambda f: hashlib.blake2b(f.encode(), digest_size=8).digest())


def installed() -> Iterator[Distribution]:
    """Every distribution but Athanor, and the standard library as `python`, by name; the first on sys.path wins."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for candidate in importlib.metadata.distributions():
        name = _normalize(_field(candidate, "Name"))
        if name not in ("", OURSELVES):
            found.setdefault(name, candidate)
    for name in sorted({*found, "python"}):
        yield _standard_library() if name == "python" else _distribution(name, found[name])


def _distribution(name: str, found: importlib.metadata.Distribution) -> Distribution:
    readme = str(found.metadata.get_payload() or _field(found, "Description"))  # type: ignore[attr-defined]
    root = Path(str(found.locate_file("")))
    summary = _field(found, "Summary").strip()
    return Distribution(name, found.version, summary, readme.strip(), root, lambda: _recorded(found))


def _field(found: importlib.metadata.Distribution, name: str) -> str:
    """A field of the metadata, "" if absent: the backport of importlib.metadata, once imported, raises there."""
    try:
        return str(found.metadata[name] or "")
    except KeyError:
        return ""


def _recorded(found: importlib.metadata.Distribution) -> list[str]:
    """Names as the installer wrote them down; `found.files` makes an object of each, which takes five times as long."""
    record = found.read_text("RECORD")
    if record is None:
        return [str(file) for file in found.files or []]
    return [row[0] for row in csv.reader(record.splitlines()) if row]


def _standard_library() -> Distribution:
    root = Path(sysconfig.get_paths()["stdlib"])

    def files() -> list[str]:
        return [str(Path(folder, name).relative_to(root)) for folder, _, names in os.walk(root) for name in names]

    return Distribution("python", platform.python_version(), "", "", root, files)


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
