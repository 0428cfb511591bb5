"""Virtual environments for the tools that benchmarks compare with, so that their requirements never affect ours."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tasks.files import locked

FOLDER = Path(".bench")
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS"), "1")


def python(name: str, requirements: list[str]) -> Path:
    """The interpreter of the environment `name`, which is built on first use and when its requirements change."""
    folder = FOLDER / name
    interpreter = folder / "bin" / "python"
    FOLDER.mkdir(exist_ok=True)
    with locked(FOLDER / f"{name}.lock"):  # two benchmarks may need the same environment at once
        _build(folder, interpreter, requirements)
    return interpreter


def make_importable(module: str, requirements: list[str]) -> None:
    """Make an optional package importable in this process if it is not installed, without its dependencies.

    Its environment is appended to sys.path, so that every package of ours takes precedence.
    """
    if importlib.util.find_spec(module) is None:
        interpreter = python(module, ["--no-deps", *requirements])
        (folder,) = interpreter.parent.parent.glob("lib/python*/site-packages")
        sys.path.append(str(folder.resolve()))


def _build(folder: Path, interpreter: Path, requirements: list[str]) -> None:
    installed, expected = folder / "requirements.txt", "\n".join(requirements)
    if installed.is_file() and installed.read_text() == expected:
        return
    print(f"building {folder} with {', '.join(requirements)} ...", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    subprocess.run(
        [interpreter, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *requirements], check=True
    )
    installed.write_text(expected)  # written last: a build that was interrupted is repeated


def run(interpreter: Path, script: Path, *arguments: object) -> Any:
    """Run a script on one core and return the JSON that it prints on its last line."""
    command = [str(part) for part in (interpreter, script, *arguments)]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_CORE)
    return json.loads(process.stdout.strip().splitlines()[-1])
