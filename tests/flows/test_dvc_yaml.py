"""dvc.yaml against the code and params.yaml: a stage that forgot a dep would be called up to date when it is not."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.runtime import params
from tests.sources import ROOT, module_file, reachable

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def code_of(stage: str) -> set[Path]:
    """Every file of tasks/ that a run of `stage` imports, and its flow."""
    starts = [f"flows.{stage}"]
    if params.is_training(stage):
        starts = ["flows.training", f"tasks.training.stages.{stage}"]
    elif (ROOT / "tasks" / stage).is_dir():
        starts += [f"tasks.{stage}.tasks"]
    found = {path for start in starts if (file := module_file(start)) for path in reachable(file, "tasks")}
    return {path for path in found if path.name != "__init__.py" or (ROOT / path).stat().st_size}


def covered(path: Path, deps: set[str]) -> bool:
    return any(str(folder) in deps for folder in (path, *path.parents))


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_all_the_code(stage: str) -> None:
    deps = set(STAGES[stage]["deps"])
    missing = sorted(str(path) for path in code_of(stage) if not covered(path, deps))
    assert not missing, f"dvc.yaml, {stage}.deps lack: {', '.join(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_no_code_that_is_not_used(stage: str) -> None:
    used = code_of(stage)
    named = [Path(dep) for dep in STAGES[stage]["deps"] if dep.startswith(("tasks/", "flows/"))]
    idle = [str(dep) for dep in named if not any(dep == path or dep in path.parents for path in used)]
    assert not idle, f"dvc.yaml, {stage}.deps name what is not imported: {', '.join(idle)}"


@pytest.mark.parametrize("stage", STAGES)
def test_one_word_per_stage_everywhere(stage: str) -> None:
    block = STAGES[stage]
    assert block["cmd"] == f"python -m flows.{'training ' if params.is_training(stage) else ''}{stage}"
    assert block["params"] == [stage]
    assert block["metrics"] == [{f"data/reports/{stage}.json": {"cache": False}}]
    assert f"data/reports/{stage}" in block["outs"]
    assert not params.is_training(stage) or f"data/models/{stage}" in block["outs"]


def test_the_stages_are_those_of_params_yaml() -> None:
    written = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert set(STAGES) == set(written) == set(params.stages()) - set(params.OPTIONAL)


def test_the_default_params_are_valid() -> None:
    assert set(params.load_all(STAGES, ROOT / "params.yaml")) == set(STAGES)
