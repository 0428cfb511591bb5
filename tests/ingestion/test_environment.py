"""The environment source on three small packages with known documentation."""

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tasks.conversations import Conversation
from tasks.documents import Document
from tasks.ingestion.docstrings import UnparsablePython, docstring_share, documented_objects
from tasks.ingestion.records import Record
from tasks.ingestion.sources import environment
from tasks.tables import Quarantined

MODULE = '''"""Roots of numbers."""


def root(number, *, precision=3):
    """Return the square root of a number.

    It is found by bisection, which is slow but easily understood by everyone who reads it here.
    """


def _hidden():
    """Nobody sees this."""


class Tree:
    """A tree that grows roots."""

    def grow(self, years, *more, **others):
        """Grow for some years."""
'''


def install(site: Path, name: str, files: dict[str, str | bytes], summary: str = "A small package for tests.") -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: {summary}\n\nRead {name}."
    )
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in files))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    distributions_of = importlib.metadata.distributions
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: distributions_of(path=[str(folder)]))
    library = tmp_path / "lib"
    library.mkdir()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    return folder


def read(**params: int) -> list[Record]:
    return list(environment.read(environment.Params(**params)))


def texts(records: list[Record]) -> dict[str, str]:
    return {r.id: r.text for r in records if isinstance(r, Document)}


def answers(records: list[Record]) -> dict[str, str]:
    return {c.id: c.messages[1]["content"] for c in records if isinstance(c, Conversation)}


def test_documents_of_a_package(site: Path) -> None:
    install(site, "roots", {"roots/__init__.py": MODULE, "roots/guide.md": "# A guide\n", "roots/tests/a.py": MODULE})
    documents = texts(read())
    assert set(documents) == {"roots/README", "roots/roots/__init__.py:0", "roots/roots/guide.md"}
    assert documents["roots/README"] == "Read roots."
    text = documents["roots/roots/__init__.py:0"]
    assert text.startswith("roots\n\nRoots of numbers.\n\nroots.root(number, precision)\n\nReturn the square root")
    assert text.endswith("roots.Tree.grow(years, *more, **others)\n\nGrow for some years.")
    assert "Nobody" not in text


def test_conversations_of_a_package(site: Path) -> None:
    install(site, "roots", {"roots/__init__.py": MODULE})
    file = "roots/roots/__init__.py"
    assert answers(read()) == {
        "roots/README/package": "A small package for tests.",
        f"{file}:4/function": "Return the square root of a number.",
        f"{file}:4/arguments": "`number`, `precision`.",
        f"{file}:15/class": "A tree that grows roots.",
        f"{file}:18/function": "Grow for some years.",
        f"{file}:18/arguments": "`years`, `*more`, `**others`.",
    }


def test_everything_of_a_package_has_its_group(site: Path) -> None:
    install(site, "Big_Roots", {"roots/__init__.py": MODULE})
    assert {r.group for r in read() if not isinstance(r, Quarantined)} == {"package:big-roots"}


def test_nothing_depends_on_where_it_is_installed(site: Path) -> None:
    install(site, "roots", {"roots/__init__.py": MODULE})
    assert str(site.parent) not in repr(read())


def test_our_own_tree_is_left_out(site: Path) -> None:
    install(site, "athanor", {"tasks/x.py": MODULE})
    install(site, "roots", {"roots/__init__.py": MODULE})
    assert {r.id.split("/")[0] for r in read() if not isinstance(r, Quarantined)} == {"roots"}


def test_unreadable_files_are_quarantined_and_their_neighbors_kept(site: Path) -> None:
    files: dict[str, str | bytes] = {
        "roots/__init__.py": MODULE,
        "roots/old.py": f'"""{"x" * 99}"""\nprint 1',
        "roots/bad.md": b"caf\xe9 or",
    }
    install(site, "roots", files)
    records = read()
    assert {(q.file, q.reason) for q in records if isinstance(q, Quarantined)} == {
        ("roots/roots/old.py", "invalid_python"),
        ("roots/roots/bad.md", "invalid_utf8"),
    }
    assert "roots/roots/__init__.py:0" in texts(records)


def test_caps(site: Path) -> None:
    for name in ("aa", "bb", "cc"):
        install(site, name, {f"{name}/m{i}.py": MODULE for i in range(9)})
    assert len(texts(read(max_documents=4))) == 4
    assert sum(map(len, texts(read(max_bytes=1500)).values())) <= 1500
    share = texts(read(max_bytes_per_package=800))
    assert {id.split("/")[0] for id in share} == {"aa", "bb", "cc"}
    assert all(sum(len(t) for id, t in share.items() if id.startswith(n)) <= 800 for n in ("aa", "bb", "cc"))
    assert len(answers(read(num_conversations=5))) == 5
    assert len(answers(read(max_conversations_per_package=2))) == 6


def test_long_modules_become_several_documents(site: Path) -> None:
    install(site, "roots", {"roots/__init__.py": MODULE})
    assert len([id for id in texts(read(document_bytes=1)) if "__init__" in id]) == 4


def test_docstring_share_is_the_share_within_triple_quotes() -> None:
    assert docstring_share(b'"""ab"""xx') == 0.2
    assert docstring_share(b"") == 0


@pytest.mark.parametrize("source", [b"print 1", b"a\0b", b"(" * 5000, b"# coding: nonsense\n'a'"])
def test_what_is_no_python_is_named(source: bytes) -> None:
    with pytest.raises(UnparsablePython):
        list(documented_objects(source, "m"))


def test_the_real_environment_is_read_the_same_twice() -> None:
    params = {"max_bytes": 150_000, "max_bytes_per_package": 2000, "num_conversations": 100}
    first = read(**params)
    assert read(**params) == first
    groups = {d.group for d in first if isinstance(d, Document)}
    assert len(groups) > 20


def test_the_backport_of_importlib_metadata_changes_nothing() -> None:
    """Once it is imported, the backport's distributions are returned too, and they raise if a field is absent."""
    code = (
        "import sys; [__import__(name) for name in sys.argv[1:]]; from tasks.ingestion import distributions;"
        "print([(d.name, d.version, d.summary, d.readme) for d in distributions.installed_distributions()])"
    )
    plain, backport = (
        subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True).stdout
        for names in ([], ["importlib_metadata"])
    )
    assert plain == backport
    assert len(plain) > 100_000
