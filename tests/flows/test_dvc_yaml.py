"""dvc.yaml agrees with the code and params.yaml. A missing dep would make DVC call a stale stage up to date."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.runtime import params
from tests.sources import ROOT, files, module_file, reachable

STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def code_of(stage: str) -> set[Path]:
    """Return every file of tasks/ that a run of `stage` imports, and its flow."""
    starts = [f"flows.{stage}"]
    if params.is_training(stage):
        starts = ["flows.training", f"tasks.training.stages.{params.named_stages().get(stage, stage)}"]
    elif (ROOT / "tasks" / stage).is_dir():
        # Every file of the package, because plug-ins are found by name and not imported.
        starts += [str(path.with_suffix("")).replace("/", ".") for path in files(f"tasks/{stage}")]
    paths = {path for start in starts if (file := module_file(start)) for path in reachable(file, "tasks")}
    return {path for path in paths if path.name != "__init__.py" or (ROOT / path).stat().st_size}


def is_covered(path: Path, deps: set[str]) -> bool:
    return any(str(folder) in deps for folder in (path, *path.parents))


@pytest.mark.parametrize("stage", STAGES)
def test_deps_list_all_imported_files(stage: str) -> None:
    deps = set(STAGES[stage]["deps"])
    missing = sorted(str(path) for path in code_of(stage) if not is_covered(path, deps))
    assert not missing, f"dvc.yaml: stages.{stage}.deps lacks {', '.join(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_list_no_file_that_is_not_imported(stage: str) -> None:
    used = code_of(stage)
    listed = [Path(dep) for dep in STAGES[stage]["deps"] if dep.startswith(("tasks/", "flows/"))]
    unused = [str(dep) for dep in listed if not any(dep == path or dep in path.parents for path in used)]
    assert not unused, f"dvc.yaml: stages.{stage}.deps lists files that are not imported: {', '.join(unused)}"


@pytest.mark.parametrize("stage", STAGES)
def test_one_name_per_stage_everywhere(stage: str) -> None:
    block = STAGES[stage]
    assert block["cmd"] == f"python -m flows.{'training ' if params.is_training(stage) else ''}{stage}"
    assert block["params"] == [stage]
    assert block["metrics"] == [{f"data/reports/{stage}.json": {"cache": False}}]
    assert f"data/reports/{stage}" in block["outs"]
    assert not params.is_training(stage) or f"data/models/{stage}" in block["outs"]


def test_the_stages_are_those_of_params_yaml() -> None:
    sections = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert set(STAGES) == set(sections) - params.NO_FLOWS == set(params.stages()) - set(params.OPTIONAL)


def test_the_default_params_are_valid() -> None:
    assert set(params.load_all(STAGES, ROOT / "params.yaml")) == set(STAGES)
