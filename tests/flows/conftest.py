"""The toy project as a fixture."""

import os
import sys
from pathlib import Path

import pytest

from flows.runtime import environment
from tests.flows.project import BLOCK, FLOW, ROOT, STAGES, WORK, Project, copy, start_versioning


@pytest.fixture
def plain_env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment without the settings that importing `flows` has made, and with our Python as `python`."""
    for name in (*environment.defaults(), environment.CLIENT_KEY, environment.SERVER_KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return dict(os.environ)


@pytest.fixture(name="project")
def project_fixture(tmp_path: Path, plain_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a new project of the toy stages, committed to git, which is the current folder."""
    project = Project(tmp_path, plain_env)
    for path in (ROOT / "flows/__init__.py", ROOT / "flows/pipeline.py", *(ROOT / "flows/runtime").glob("*.py")):
        copy(path, tmp_path / path.relative_to(ROOT))
    for path in (*(ROOT / "tasks").glob("*.py"), *(ROOT / "tasks/causal").glob("*.py")):
        copy(path, tmp_path / path.relative_to(ROOT))
    project.write("tasks/training/__init__.py", "")
    project.write("tasks/training/stages/__init__.py", "")
    blocks = []
    for stage, (source, target) in STAGES.items():
        project.write(f"tasks/{stage}/__init__.py", "")
        project.write(f"tasks/{stage}/tasks.py", WORK.format(stage=stage, source=source, target=target))
        project.write(f"flows/{stage}.py", FLOW.format(stage=stage))
        outs = f"data/{target}, data/reports/{stage}" + (", data/models/total" if stage == "total" else "")
        blocks.append(BLOCK.format(stage=stage, source=source, outs=outs))
    project.write("dvc.yaml", "stages:" + "".join(blocks))
    project.write("data/raw/a.txt", "one two")
    project.set_params()
    start_versioning(project)
    monkeypatch.chdir(tmp_path)
    return project
