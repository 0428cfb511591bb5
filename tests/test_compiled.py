"""Machine code is compiled again whenever any source file that it was compiled from changes, in whatever folder.

The tests use a package `small` in a temporary folder: `small.loops.outer.run` inlines `small.steps.inner.advance`.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import compiled

INNER = """
from tasks.compiled import kernel

@kernel("int64(int64)", inline="always")
def advance(x: int) -> int:
    return x + {step}
"""
OUTER = """
import {module}
from tasks.compiled import kernel
from {module} import advance

@kernel("int64(int64)")
def run(x: int) -> int:
    return advance(advance(x))
"""


def write_package(root: Path, folder: str, step: int) -> None:
    """A package whose inner kernel adds `step` and lies in `folder`."""
    (root / "small" / folder).mkdir(parents=True, exist_ok=True)
    (root / "small" / "loops").mkdir(exist_ok=True)
    (root / "small" / folder / "inner.py").write_text(INNER.format(step=step), encoding="utf-8")
    (root / "small" / "loops" / "outer.py").write_text(OUTER.format(module=f"small.{folder}.inner"), encoding="utf-8")


def run_kernel(root: Path) -> tuple[int, str, int]:
    """Import the package anew: run(1), the cache folder of `outer`, and how many functions it read from the cache."""
    forget_package()
    outer = importlib.import_module("small.loops.outer")
    (folder,) = (root / "small" / "loops" / "__pycache__").glob("kernels-*")
    return outer.run(1), folder.name, sum(outer.run.stats.cache_hits.values())


def forget_package() -> None:
    """Remove the package from Python's memory, so that the next import reads its files."""
    for name in [name for name in sys.modules if name.split(".")[0] == "small"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    compiled.cache_folder.cache_clear()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project. Python keeps no bytecode, which it would not renew for two changes within one second."""
    monkeypatch.setattr(compiled, "PROJECT", tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget_package()


def test_unchanged_kernels_are_read_from_the_cache(root: Path) -> None:
    write_package(root, "steps", step=1)
    first = run_kernel(root)
    again = run_kernel(root)
    assert first[0] == again[0] == 3
    assert first[1] == again[1]
    assert (first[2], again[2]) == (0, 1)


def test_a_change_in_another_folder_compiles_the_kernel_again(root: Path) -> None:
    write_package(root, "steps", step=1)
    result, folder, _ = run_kernel(root)
    write_package(root, "steps", step=5)
    changed_result, changed_folder, hits = run_kernel(root)
    assert (result, changed_result) == (3, 11)
    assert folder != changed_folder
    assert hits == 0


def test_a_kernel_that_moves_to_another_folder_is_still_a_dependency(root: Path) -> None:
    write_package(root, "steps", step=1)
    _, folder, _ = run_kernel(root)
    (root / "small" / "steps" / "inner.py").unlink()
    write_package(root, "moved", step=1)
    result, moved_folder, hits = run_kernel(root)
    assert (result, hits) == (3, 0)
    assert folder != moved_folder
    write_package(root, "moved", step=7)
    changed_result, changed_folder, hits = run_kernel(root)
    assert (changed_result, hits) == (15, 0)
    assert moved_folder != changed_folder


def test_source_files_follow_imports_through_packages(root: Path) -> None:
    write_package(root, "steps", step=1)
    reexport = "from small.steps.inner import advance\nfrom small.constants import ONE\n"
    (root / "small" / "steps" / "__init__.py").write_text(reexport, encoding="utf-8")
    (root / "small" / "constants.py").write_text("import small.loops.outer\nONE = 1\n", encoding="utf-8")  # a cycle
    (root / "small" / "loops" / "outer.py").write_text(OUTER.format(module="small.steps"), encoding="utf-8")
    names = {str(file.relative_to(root / "small")) for file in compiled.source_files("small.loops.outer", root)}
    assert names == {"loops/outer.py", "steps/inner.py", "steps/__init__.py", "constants.py"}


def test_a_kernel_of_this_project_depends_on_other_folders() -> None:
    files = compiled.source_files("tasks.curation.signals.signal_kernels", compiled.PROJECT)
    names = {str(file.relative_to(compiled.PROJECT / "tasks")) for file in files}
    curation = {"text/characters.py", "signals/repetition_kernels.py", "signals/columns.py"}
    assert {"compiled.py", *(f"curation/{name}" for name in curation)} <= names


def test_a_deferred_kernel_is_compiled_before_its_use(root: Path) -> None:
    """Both kernels wait, and are compiled for their signatures only, in the order of their definition."""
    write_package(root, "steps", 5)
    forget_package()
    with compiled.deferred():
        outer = importlib.import_module("small.loops.outer")
    assert not outer.run.signatures
    compiled.compile_waiting("smaller")
    assert not outer.run.signatures
    compiled.compile_waiting("small")
    assert (outer.run(1), len(outer.run.signatures)) == (11, 1)
    assert not [one for one, _ in compiled._waiting if one.py_func.__module__.startswith("small.")]
    with pytest.raises(TypeError):
        outer.run("text")
