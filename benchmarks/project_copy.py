"""A copy of this project in a folder of its own, and commands in it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

FILES = (
    *("dvc.yaml", "constraints.txt", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"),
    *("data/.gitignore", "data/raw/README.md", "data/reports/.gitignore"),
)


def copy_project(root: Path, *more_files: str) -> None:
    """Copy the code and `more_files` into `root`, and start git as a clone has it."""
    for folder in ("flows", "tasks"):
        shutil.copytree(folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*FILES, *more_files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, root / name)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)


def run(root: Path, *command: str, errors: int | IO[Any] | None = subprocess.STDOUT) -> tuple[int, str]:
    """Run `python -m <command>` in `root`, with the servers and databases of `root`. Return exit code and output.

    errors: where the standard error goes, as in `subprocess.run`; by default into the output, too.
    """
    names = ("PREFECT_", "MLFLOW_", "DVC_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:  # a pipe stays open as long as a server of the run
        result = subprocess.run(
            [sys.executable, "-m", *command], cwd=root, env=environment, stdout=output, stderr=errors
        )
        output.seek(0)
        return result.returncode, output.read()
