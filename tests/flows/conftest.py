"""The toy project as a fixture."""

import os
import sys
from pathlib import Path

import pytest

from flows.runtime import environment
from tests.flows.project import Project, make_project


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
    project = make_project(tmp_path, plain_env)
    monkeypatch.chdir(tmp_path)
    return project
