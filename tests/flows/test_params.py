"""`python -m flows.params` describes every key that params.yaml may contain, and the file repeats no default."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from flows import params as command
from flows.runtime import params
from tasks.errors import BadParams
from tests.sources import ROOT

# Keys that params.yaml contains with their default, because a new user should see them first.
SHOWN_DEFAULTS = {
    "curation.filters",
    "curation.minhash.threshold",
    "tokenization.vocab_size",
    "pretrain.sequence_length",
    "dpo.loss",
    "ppo.advantage",
}


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


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of each value of nested mappings."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    else:
        yield path


def without(section: Any, path: tuple[str, ...]) -> Any:
    """Return a copy of `section` without the key at `path`."""
    copied = copy.deepcopy(section)
    parent = copied
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return copied


def repeats_default(stage: str, section: Any, path: tuple[str, ...]) -> bool:
    """Whether the Params of the stage are the same without the key at `path`."""
    try:
        return params.section(stage, without(section, path), "a test") == params.section(stage, section, "a test")
    except BadParams:  # the key is required
        return False


def test_params_yaml_repeats_no_default_unless_a_new_user_should_see_it() -> None:
    sections = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    repeated = {
        ".".join((stage, *path))
        for stage, section in sections.items()
        for path in leaves(section)
        if repeats_default(stage, section, path)
    }
    assert repeated <= SHOWN_DEFAULTS
