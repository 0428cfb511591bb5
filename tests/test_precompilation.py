"""Machine code is compiled ahead by a process of its own, only where it is missing, and ends with its parent."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks import compiled, precompilation

KERNELS = """
from tasks.compiled import kernel

@kernel("int64(int64)")
def one(x: int) -> int:
    return x + 1

@kernel("int64(int64)")
def two(x: int) -> int:
    return one(x) + 1
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stage curation has two kernels, which are not compiled, and whose stage tokenization has none."""
    for name in ("compiled.py", "precompilation/__init__.py", "precompilation/__main__.py"):
        (tmp_path / "tasks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tasks" / name).write_bytes((compiled.PROJECT / "tasks" / name).read_bytes())
    for stage in precompilation.WITH_KERNELS:
        (tmp_path / "tasks" / stage).mkdir()
        (tmp_path / "tasks" / stage / "__init__.py").touch()
    (tmp_path / "tasks/__init__.py").touch()
    (tmp_path / "tasks/curation/kernels.py").write_text(KERNELS, encoding="utf-8")
    monkeypatch.setattr(compiled, "PROJECT", tmp_path)
    compiled.cache_folder.cache_clear()
    return tmp_path


def children() -> list[psutil.Process]:
    """The processes that compile ahead."""
    return [child for child in psutil.Process().children() if "tasks.precompilation" in child.cmdline()]


def test_kernels_are_found_and_compiled_while_the_block_runs(project: Path) -> None:
    assert precompilation.kernel_modules("curation") == {"tasks.curation.kernels": 2}
    assert not precompilation.has_machine_code("curation")
    assert precompilation.has_machine_code("tokenization")
    with precompilation.ahead(["curation", "tokenization", "sft"], None):
        (child,) = children()
        child.wait(timeout=120)
    assert precompilation.has_machine_code("curation")
    with precompilation.ahead(["curation", "tokenization", "sft"], None):
        assert not children()


def test_changed_sources_are_compiled_again(project: Path) -> None:
    with precompilation.ahead(["curation"], None):
        children()[0].wait(timeout=120)
    assert precompilation.has_machine_code("curation")
    with (project / "tasks/curation/kernels.py").open("a", encoding="utf-8") as file:
        file.write("\n\nCHANGED = True\n")
    compiled.cache_folder.cache_clear()
    assert not precompilation.has_machine_code("curation")


def test_the_process_ends_with_the_block_and_with_its_parent(project: Path) -> None:
    (project / "tasks/curation/kernels.py").write_text("import time\n\ntime.sleep(60)\n" + KERNELS, encoding="utf-8")
    with precompilation.ahead(["curation"], None):
        (child,) = children()
    assert not child.is_running()
    parent = (
        "import pathlib, time; from tasks import compiled, precompilation; "
        f"compiled.PROJECT = pathlib.Path({str(project)!r}); block = precompilation.ahead(['curation'], None); "
        "block.__enter__(); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=project, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (orphan,) = psutil.Process(process.pid).children()
        process.kill()
    deadline = time.monotonic() + 60
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE


def test_torch_finds_instructions_only_where_a_stage_compiles(project: Path, tmp_path: Path) -> None:
    cache = tmp_path / "compiled"
    commands = []
    original = subprocess.Popen

    class Recorded(original):  # type: ignore[valid-type, misc]
        def __init__(self, command: list[str], **options: object) -> None:
            commands.append(command)
            super().__init__([sys.executable, "-c", ""], **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Recorded)
        with precompilation.ahead(["sft"], cache):
            pass
        cache.mkdir()
        with precompilation.ahead(["sft"], cache), precompilation.ahead(["tokenization", "sft"], None):
            pass
    assert [command[3:] for command in commands] == [["--torch-cache", str(cache)]]
