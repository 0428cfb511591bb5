"""The list of stages that report page, chat and evaluation read from dvc.yaml and params.yaml."""

from pathlib import Path

import pytest
import yaml

from tasks.errors import BadInput
from tasks.pipeline_stages import read_stages
from tests.sources import ROOT


def test_the_stages_of_this_project() -> None:
    stages = {stage.name: stage for stage in read_stages(ROOT / "dvc.yaml", ROOT / "params.yaml")}
    assert [name for name, stage in stages.items() if stage.answers_prompts] == ["sft", "ppo", "dpo"]
    assert all(stage.kind == name for name, stage in stages.items())
    assert stages["ppo"].depth > stages["dpo"].depth > stages["sft"].depth, "ppo follows reward, which follows sft"


def test_a_second_stage_of_a_kind(tmp_path: Path) -> None:
    """`mid` stands last in the file but between pretrain and sft in the chain: depths 0, 2, 1."""
    blocks = {
        "pretrain": {"cmd": "python -m flows.training pretrain", "outs": ["data/models/pretrain"]},
        "sft": {
            "cmd": "python -m flows.training sft",
            "deps": ["data/models/mid/config.json"],
            "metrics": [{"data/reports/sft.json": {"cache": False}}],
        },
        "mid": {
            "cmd": "python -m flows.training mid",
            "deps": ["data/models/pretrain"],
            "outs": [{"data/models/mid": {"persist": True}}],
        },
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": blocks}, sort_keys=False))
    (tmp_path / "params.yaml").write_text("pretrain:\nsft: {steps: 3}\nmid: {stage: sft, base: pretrain}\n")
    stages = read_stages(tmp_path / "dvc.yaml", tmp_path / "params.yaml")
    assert [(stage.name, stage.kind, stage.depth) for stage in stages] == [
        ("pretrain", "pretrain", 0), ("sft", "sft", 2), ("mid", "sft", 1),
    ]  # fmt: skip
    assert [stage.answers_prompts for stage in stages] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "there is no .*dvc.yaml in .*Run the command in the folder of the project"),
        ("stages: [", "dvc.yaml cannot be read as YAML"),
        ("- stages", "expected a mapping, received list"),
        ("plots: []", "expected the key `stages`"),
        ("stages: {sft: 3}", "expected the key `stages` with one block for each stage"),
    ],
)
def test_an_invalid_file_is_reported(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_stages(tmp_path / "dvc.yaml", ROOT / "params.yaml")
