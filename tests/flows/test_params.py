"""`python -m flows.params` describes every key that params.yaml may contain."""

import json

import pytest
import yaml

from flows import params as command
from flows.runtime import params
from tests.sources import ROOT


@pytest.mark.parametrize("stage", params.stages())
def test_every_key_is_described_by_a_sentence(stage: str) -> None:
    undescribed = [key.key for key in command.stage_keys(stage) if not key.description.strip().endswith(".")]
    assert not undescribed, f"these fields need `description=` with a sentence: {', '.join(undescribed)}"


@pytest.mark.parametrize("stage", params.stages())
def test_every_key_of_params_yaml_is_listed(stage: str) -> None:
    section = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")).get(stage) or {}
    keys = {key.key for key in command.stage_keys(stage)}
    assert {f"{stage}.{name}" for name in section} <= keys


def test_keys_of_plug_ins_are_listed_with_their_names() -> None:
    by_key = {key.key: key for stage in ("sft", "curation") for key in command.stage_keys(stage)}
    rank = by_key["sft.adapter(lora).rank"]
    assert (rank.type, rank.required, rank.default) == ("int >= 1", False, 8)
    assert "curation.languages.<name>.changes(gopher_quality).min_words" in by_key
    assert by_key["curation.languages.<name>.profile"].required
    assert by_key["curation.filters"].type == "list of str"


def test_text_and_json_contain_the_same_keys(capsys: pytest.CaptureFixture[str]) -> None:
    keys = list(command.stage_keys("tokenization"))
    command.print_text(keys)
    lines = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]
    assert [line.split()[0] for line in lines] == [key.key for key in keys]
    command.print_json(keys)
    assert [key["key"] for key in json.loads(capsys.readouterr().out)] == [key.key for key in keys]
