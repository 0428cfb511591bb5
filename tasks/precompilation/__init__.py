"""Machine code of later stages, compiled by a process of its own while the first stage runs on one core.

The first run after an installation compiles the kernels of curation and tokenization, which takes half a minute, and
torch finds out which instructions of the processor its compiler may use, which takes 13 seconds. The results are kept
in folders where the stages find them. A stage compiles whatever is missing when it begins, so that nothing depends on
this process: it may fail, be late, or be killed.
"""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tasks import compiled

WITH_KERNELS = ("curation", "tokenization")
DECORATOR = re.compile(r"^@(?:compiled\.)?kernel\(", re.MULTILINE)
INDEX = "*/*.nbi"  # numba writes one of these files per function that it has compiled


def kernel_modules(stage: str) -> dict[str, int]:
    """Return the modules of `tasks/<stage>` that define kernels, and how many."""
    modules = {}
    for path in sorted((compiled.PROJECT / "tasks" / stage).rglob("*.py")):
        if count := len(DECORATOR.findall(path.read_text(encoding="utf-8"))):
            modules[".".join(path.relative_to(compiled.PROJECT).with_suffix("").parts)] = count
    return modules


def has_machine_code(stage: str) -> bool:
    """Whether every kernel of a stage has been compiled since its sources changed."""
    return all(
        len(list(compiled.cache_folder(module, compiled.PROJECT).glob(INDEX))) >= count
        for module, count in kernel_modules(stage).items()
    )


@contextmanager
def ahead(stages: Sequence[str], torch_cache: Path | None) -> Iterator[None]:
    """Within the block, a process of low priority compiles what `stages`, which come later, lack.

    torch_cache: where torch's compiler keeps its results, if a stage uses it. Nothing is started if nothing is missing.
    """
    missing = [stage for stage in stages if stage in WITH_KERNELS and not has_machine_code(stage)]
    arguments = missing
    if torch_cache is not None and not torch_cache.exists():
        arguments = [*missing, "--torch-cache", str(torch_cache)]
    if not arguments:
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "tasks.precompilation", *arguments],
        cwd=compiled.PROJECT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is meant for the stage
    )  # fmt: skip
    try:
        yield
    finally:
        process.kill()
        process.communicate()
