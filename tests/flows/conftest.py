"""The toy project as a fixture."""

import os
import sys
from pathlib import Path

import pytest

from flows.runtime import environment
from tests.flows.project import BLOCK, FLOW, ROOT, STAGES, WORK, Project, copy, start_versioning

RUNTIME = [
    "__init__",
    "command",
    "embedded",
    "environment",
    "params",
    "renamed_keys",
    "results",
    "spool",
    "tracking",
    "versioning",
]


@pytest.fixture
def plain_env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment without the settings that importing `flows` here has made, and with our Python as `python`."""
    for name in environment.defaults():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return dict(os.environ)


@pytest.fixture
def project(tmp_path: Path, plain_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Project:
    """A fresh project of the three stages, committed, in the current folder."""
    made = Project(tmp_path, plain_env)
    for name in ("__init__", "pipeline", *(f"runtime/{name}" for name in RUNTIME)):
        copy(ROOT / "flows" / f"{name}.py", tmp_path / "flows" / f"{name}.py")
    for path in (ROOT / "tasks").glob("*.py"):
        copy(path, tmp_path / "tasks" / path.name)
    made.write("tasks/training/__init__.py", "")
    made.write("tasks/training/stages/__init__.py", "")
    blocks = []
    for stage, (source, target) in STAGES.items():
        made.write(f"tasks/{stage}/__init__.py", "")
        made.write(f"tasks/{stage}/tasks.py", WORK.format(stage=stage, source=source, target=target))
        made.write(f"flows/{stage}.py", FLOW.format(stage=stage))
        outs = f"data/{target}, data/reports/{stage}" + (", data/models/total" if stage == "total" else "")
        blocks.append(BLOCK.format(stage=stage, source=source, outs=outs))
    made.write("dvc.yaml", "stages:" + "".join(blocks))
    made.write("data/raw/a.txt", "one two")
    made.set_params()
    start_versioning(made)
    monkeypatch.chdir(tmp_path)
    return made
