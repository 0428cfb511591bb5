"""The Python packages that are installed in the running environment: their files and metadata.

Paths are relative to the folder of installation, so that two environments with the same packages yield the same ids.
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

OWN_NAME = "athanor"
TEXT_SUFFIXES = (".md", ".rst", ".txt")
# Records of installers, test suites and generated data: files that are not documentation.
_EXCLUDED = re.compile(
    r"(^|/)(\.\.|__pycache__|tests?|testing|test_data|lib2to3|idlelib|turtledemo|(site|dist)-packages)/|"
    r"(^|/)(conftest\.py|_sysconfigdata[^/]*|test_[^/]*|(top_level|entry_points|SOURCES|requires|dependency_links)\.txt)$"
)


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed package. `list_files` returns all of its files, relative to `root`."""

    name: str
    version: str
    summary: str
    readme: str
    root: Path
    list_files: Callable[[], Sequence[str]]

    def files(self) -> list[str]:
        """Return the paths of Python and text files, relative to `root`.

        They are sorted by a hash of the path, so that the files below a size cap come from all parts of a package.
        """
        suffixes = (".py", *TEXT_SUFFIXES)
        documented = [f for f in self.list_files() if f.endswith(suffixes) and not _EXCLUDED.search(f)]
        return sorted(set(documented), key=lambda f: hashlib.blake2b(f.encode(), digest_size=8).digest())


def installed_distributions() -> Iterator[Distribution]:
    """Yield every distribution except Athanor, and the standard library as `python`, sorted by name.

    If a name is installed twice, the first on sys.path is used, as by `import`.
    """
    by_name: dict[str, importlib.metadata.Distribution] = {}
    for candidate in importlib.metadata.distributions():
        name = _normalize(_field(candidate, "Name"))
        if name not in ("", OWN_NAME):
            by_name.setdefault(name, candidate)
    for name in sorted({*by_name, "python"}):
        yield _standard_library() if name == "python" else _read_distribution(name, by_name[name])


def _read_distribution(name: str, distribution: importlib.metadata.Distribution) -> Distribution:
    readme = str(distribution.metadata.get_payload() or _field(distribution, "Description"))  # type: ignore[attr-defined]
    root = Path(str(distribution.locate_file("")))
    summary = _field(distribution, "Summary").strip()
    return Distribution(name, distribution.version, summary, readme.strip(), root, lambda: _list_files(distribution))


def _field(distribution: importlib.metadata.Distribution, name: str) -> str:
    """Return a field of the metadata, "" if it is absent.

    The standard library returns None for an absent field, the backport importlib_metadata raises KeyError.
    """
    try:
        return str(distribution.metadata[name] or "")
    except KeyError:
        return ""


def _list_files(distribution: importlib.metadata.Distribution) -> list[str]:
    """Return the paths in the file RECORD; `distribution.files` builds an object for each and is five times slower."""
    record = distribution.read_text("RECORD")
    if record is None:
        return [str(file) for file in distribution.files or []]
    return [row[0] for row in csv.reader(record.splitlines()) if row]


def _standard_library() -> Distribution:
    root = Path(sysconfig.get_paths()["stdlib"])

    def list_files() -> list[str]:
        return [str(Path(folder, name).relative_to(root)) for folder, _, names in os.walk(root) for name in names]

    return Distribution("python", platform.python_version(), "", "", root, list_files)


def _normalize(name: str) -> str:
    """Normalize the name of a package (PEP 503): Foo.Bar_baz -> foo-bar-baz."""
    return re.sub(r"[-_.]+", "-", name).lower()
