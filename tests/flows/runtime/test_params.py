"""A mistake in params.yaml is reported with file, line, key, what was expected and the nearest valid key."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from flows.runtime import params, renamed_keys
from tasks.engine import settings
from tasks.errors import BadParams


class Inner(BaseModel, frozen=True, extra="forbid"):
    min_words: int = Field(5, ge=0)
    name: str = "x"


class Toy(BaseModel, frozen=True, extra="forbid"):
    steps: int = Field(10, ge=1)
    inner: Inner = Inner()
    named: dict[str, Inner] = {}
    either: Inner | None = None
    chosen: dict[str, Any] = {}

    @field_validator("chosen")
    @classmethod
    def _validate(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "raise" in value:
            raise BadParams("no filter 'lenght'; did you mean 'length'? available: length")
        Inner.model_validate(value)
        return value


@pytest.fixture
def load_toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that loads the section `toy` of a text and returns the Params or the error message."""
    monkeypatch.setattr(params, "stages", lambda *_: ["toy", "other"])
    monkeypatch.setattr(params, "model", lambda stage: Toy)
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> Any:
        Path("params.yaml").write_text(text, encoding="utf-8")
        try:
            return params.load("toy")
        except BadParams as error:
            return str(error)

    return load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("toy:\n  stps: 3\n", "line 2: toy.stps: unknown key; did you mean 'steps'? available: chosen, either, inner"),
        ("toy:\n  inner:\n    min_word: 3\n", "line 3: toy.inner.min_word: unknown key; did you mean 'min_words'?"),
        (
            "toy: {named: {a: {nam: 3}}}",
            "line 1: toy.named.a.nam: unknown key; did you mean 'name'? available: min_words, name",
        ),
        ("toy:\n  either:\n    nam: 3\n", "line 3: toy.either.nam: unknown key; did you mean 'name'?"),
        (
            "toy:\n  steps: many\n",
            "line 2: toy.steps: expected a valid integer, unable to parse string as an integer, not 'many'",
        ),
        ("toy:\n\n  steps: 0\n", "line 3: toy.steps: expected greater than or equal to 1, not 0"),
        ("toy:\n  inner: 3\n", "line 2: toy.inner: expected a mapping (`key: value`), not 3"),
        (
            "toy:\n  chosen: {min_words: -1}",
            "line 2: toy.chosen.min_words: expected greater than or equal to 0, not -1",
        ),
        ("toy:\n  chosen: {raise: 1}", "line 2: toy.chosen: no filter 'lenght'; did you mean 'length'?"),
        (
            "toy: {}\ntoi: {}\n",
            "line 2: toi: no stage has this name; did you mean 'toy'? available: engine, memory, other, toy",
        ),
        ("toy: {steps: 1}\ntoy: {}\n", "line 2: toy occurs twice; keep one"),
        ("toy: {steps: 1\n", "is not valid YAML: "),
        ("- toy\n", "must contain one section per stage"),
        ("other: {}\n", "has no section 'toy'; `toy: {}` takes every default"),
    ],
)
def test_mistakes_are_reported_with_place_and_remedy(load_toy: Any, text: str, message: str) -> None:
    assert load_toy(text).startswith("params.yaml")
    assert message in load_toy(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine: rya\ntoy: {}\n", "line 1: engine: expected 'local' or 'ray', not 'rya'"),
        (
            "toy: {}\nmemory: 3 apples\n",
            "line 2: memory: expected a size such as 4 GB, 500 MB or 1.5 TiB, not '3 apples'",
        ),
        ("toy: {}\nmemory: 1 MB\n", "line 2: memory: expected at least 256 MB, not '1 MB'"),
    ],
)
def test_keys_of_no_stage_are_checked(load_toy: Any, text: str, message: str) -> None:
    assert message in load_toy(text)


def test_the_engine_of_the_file_does_not_replace_that_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("engine: ray\nmemory: 2 GB\n", encoding="utf-8")
    monkeypatch.setenv(settings.ENGINE, "local")
    monkeypatch.setenv(settings.MEMORY, "")  # so that the variable is removed again after the test
    monkeypatch.delenv(settings.MEMORY)
    params.publish_engine(file)
    assert settings.current() == settings.Settings(engine="local", memory="2 GB")


def test_all_mistakes_are_reported_together(load_toy: Any) -> None:
    assert len(load_toy("toy: {steps: 0, stps: 1, inner: {min_words: -1}}").splitlines()) == 3


def test_what_is_not_written_has_its_default(load_toy: Any) -> None:
    assert load_toy("toy:\n") == Toy() == load_toy("toy: {}")
    assert load_toy("toy: {steps: 1_000}").steps == 1000


def test_an_old_key_is_reported_with_its_new_name(load_toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"*.stps": "*.steps", "toy.named.*.words": "toy.named.*.min_words"}
    monkeypatch.setattr(renamed_keys, "RENAMED_KEYS", keys)
    monkeypatch.setattr(renamed_keys, "RENAMED_VALUES", {("toy.inner.name", "y"): "x"})
    text = "toy:\n  stps: 3\n  named: {a: {words: 2}}\n  inner:\n    name: y\nother: {min_words: 1}\n"
    assert load_toy(text).splitlines() == [
        "params.yaml, line 2: toy.stps was renamed; write toy.steps",
        "params.yaml, line 3: toy.named.a.words was renamed; write toy.named.a.min_words",
        "params.yaml, line 5: toy.inner.name: the value 'y' was renamed; write 'x'",
    ]
    assert load_toy("toy: {steps: 3, inner: {name: x}}").steps == 3


def test_no_new_name_is_an_old_one() -> None:
    for new in renamed_keys.RENAMED_KEYS.values():
        assert renamed_keys.new_key(new.split(".")) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ingestion:\n  sources:\n    numbres: {}\n",
            "params.yaml, line 3: ingestion.sources.numbres: no source 'numbres'; did you mean 'numbers'?",
        ),
        (
            "ingestion: {sources: {mine: {source: jsnl}}}",
            "params.yaml, line 1: ingestion.sources.mine.source: no source 'jsnl'; did you mean 'jsonl'?",
        ),
        (
            "curation:\n  filters:\n  - lenght\n",
            "line 3: curation.filters.0: no filter 'lenght'; did you mean 'length'?",
        ),
        (
            "curation: {languages: {en: {changes: {lenght: {}}}}}",
            "curation.languages.en.changes.lenght: no filter 'lenght'; did you mean 'length'?",
        ),
        ("evaluation: {metrics: {golld: {}}}", "evaluation.metrics.golld: no metric 'golld'; did you mean 'gold'?"),
        ("mid: {stage: sfft}", "params.yaml, line 1: mid.stage: no stage 'sfft'; did you mean 'sft'?"),
        ("mid: {stage: sft, exact: true}", "line 1: mid.exact was renamed; write mid.deterministic"),
        ("sft: {adapter: lor}", "sft.adapter: no adapter 'lor'; did you mean 'lora'?"),
        ("sft: {adapter: {name: lor}}", "sft.adapter.name: no adapter 'lor'; did you mean 'lora'?"),
        ("ppo: {launch: {strategy: zero4}}", "ppo.launch.strategy: no strategy 'zero4'; did you mean 'zero"),
        ("stf: {}", "params.yaml, line 1: stf: no stage has this name; did you mean 'sft'?"),
    ],
)
def test_unknown_names_are_reported_before_anything_is_imported(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadParams) as error:
        params.check_names(tmp_path / "params.yaml")
    assert message in str(error.value)


def test_a_section_without_a_block_of_dvc_yaml_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("sft: {}\nmid: {stage: sft, base: sft}\nreward: {}\nclassifier: {}\n", encoding="utf-8")
    with pytest.raises(BadParams) as error:
        params.check_blocks(["sft"], file)
    mid, reward = str(error.value).splitlines()
    assert mid.startswith(f"{file}, line 2: mid: the stage never runs, because dvc.yaml has no block 'mid'")
    assert "`cmd: python -m flows.training mid`" in mid
    assert "data/reports/mid.json" in mid
    assert reward.startswith(f"{file}, line 3: reward: the stage never runs")
    params.check_blocks(["sft", "mid", "reward"], file)


def test_names_of_a_wrong_type_are_left_to_the_params(tmp_path: Path) -> None:
    text = "ingestion: 3\ncuration: {filters: 3, languages: [en]}\nsft: {adapter: [], launch: 1}\n"
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    params.check_names(tmp_path / "params.yaml")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadParams, match=r"there is no params\.yaml in .*Run the command in the folder of the project"):
        params.check_names()


def test_flatten_names_each_leaf_by_its_path() -> None:
    flat = params.flatten(Toy(named={"a": Inner()}))
    assert (flat["steps"], flat["inner.min_words"], flat["named.a.name"], flat["either"]) == (10, 5, "x", None)


def test_a_section_may_be_another_stage_of_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("sft: {steps: 3}\nmid: {stage: sft, base: sft, steps: 5}\n")
    loaded = params.load("mid")
    assert (type(loaded).__module__, loaded.model_dump()["steps"]) == ("tasks.training.stages.sft", 5)
    assert params.is_training("mid")
    Path("params.yaml").write_text("mid: {stage: sff}\n")
    with pytest.raises(BadParams, match="no stage 'sff'; did you mean 'sft'"):
        params.load("mid")
