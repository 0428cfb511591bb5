"""The real stages with tiny params: pipeline and `dvc repro` run the same stages and write the same bytes, once."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.flows.project import ROOT, Project, copy, start_versioning

STAGES = set(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


@pytest.fixture
def tiny_project(tmp_path: Path, plain_env: dict[str, str]) -> Project:
    """Return a copy of this project with tiny params and no results."""
    for folder in ("flows", "tasks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "constraints.txt", "data/.gitignore", "data/raw/README.md", "data/reports/.gitignore"):
        copy(ROOT / name, tmp_path / name)
    copy(ROOT / "tests/flows/tiny.yaml", tmp_path / "params.yaml")
    project = Project(tmp_path, {**plain_env, "OMP_NUM_THREADS": "1"})
    start_versioning(project)
    return project


def hashes(project: Project) -> dict[str, dict[str, str]]:
    """Return stage -> path -> hash of each output, from dvc.lock."""
    lock = yaml.safe_load((project.root / "dvc.lock").read_text(encoding="utf-8"))
    return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in lock["stages"].items()}


def stages_run(output: str) -> set[str]:
    return {stage for stage in STAGES if f"\n{stage} ..." in f"\n{output}"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pipeline_and_dvc_repro_write_the_same_bytes(tiny_project: Project) -> None:
    output = tiny_project.run("flows.pipeline")
    assert stages_run(output) == STAGES, output
    first = hashes(tiny_project)
    assert set(first) == STAGES
    assert stages_run(tiny_project.run("dvc", "repro")) == set()

    # each stage in its own process writes the same bytes as all stages in one process
    repeated = {"curation", "pretrain", "ppo", "evaluation"}
    assert stages_run(tiny_project.run("dvc", "repro", "--force", "--single-item", *repeated)) == repeated
    assert hashes(tiny_project) == first

    params = tiny_project.root / "params.yaml"
    params.write_text(params.read_text(encoding="utf-8").replace("dpo: {", "dpo: { beta: 0.2,"), encoding="utf-8")
    assert stages_run(tiny_project.run("flows.pipeline")) == {"dpo", "evaluation"}
    assert stages_run(tiny_project.run("dvc", "repro")) == set()
    assert "Everything is up to date" in tiny_project.run("flows.pipeline")
    assert {stage for stage in STAGES if hashes(tiny_project)[stage] != first[stage]} == {"dpo", "evaluation"}
