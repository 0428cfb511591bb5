"""A mistake in params.yaml is answered with file, line, key, what was expected and the nearest valid key."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

from flows.runtime import params, renamed_keys
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
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the section of `toy` from a text; the message, or the Params."""
    monkeypatch.setattr(params, "stages", lambda: ["toy", "other"])
    monkeypatch.setattr(params, "_model", lambda stage: Toy)
    monkeypatch.chdir(tmp_path)

    def tell(text: str) -> Any:
        Path("params.yaml").write_text(text, encoding="utf-8")
        try:
            return params.load("toy")
        except BadParams as error:
            return str(error)

    return tell


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
        ("toy:\n  inner: 3\n", "line 2: toy.inner: expected a valid dictionary or instance of Inner, not 3"),
        (
            "toy:\n  chosen: {min_words: -1}",
            "line 2: toy.chosen.min_words: expected greater than or equal to 0, not -1",
        ),
        ("toy:\n  chosen: {raise: 1}", "line 2: toy.chosen: no filter 'lenght'; did you mean 'length'?"),
        ("toy: {}\ntoi: {}\n", "line 2: toi: no stage has this name; did you mean 'toy'? available: other, toy"),
        ("toy: {steps: 1}\ntoy: {}\n", "line 2: toy is given twice; keep one"),
        ("toy: {steps: 1\n", "is not valid YAML: "),
        ("- toy\n", "must hold one section per stage"),
        ("other: {}\n", "has no section 'toy'; `toy: {}` takes every default"),
    ],
)
def test_mistakes_are_told_with_place_and_remedy(told: Any, text: str, message: str) -> None:
    assert told(text).startswith("params.yaml")
    assert message in told(text)


def test_every_mistake_is_told_at_once(told: Any) -> None:
    assert len(told("toy: {steps: 0, stps: 1, inner: {min_words: -1}}").splitlines()) == 3


def test_what_is_not_written_has_its_default(told: Any) -> None:
    assert told("toy:\n") == Toy() == told("toy: {}")
    assert told("toy: {steps: 1_000}").steps == 1000


def test_an_old_key_is_answered_with_its_new_name(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"*.stps": "*.steps", "toy.named.*.words": "toy.named.*.min_words"}
    monkeypatch.setattr(renamed_keys, "RENAMED_KEYS", keys)
    monkeypatch.setattr(renamed_keys, "RENAMED_VALUES", {("toy.inner.name", "y"): "x"})
    text = "toy:\n  stps: 3\n  named: {a: {words: 2}}\n  inner:\n    name: y\nother: {min_words: 1}\n"
    assert told(text).splitlines() == [
        "params.yaml, line 2: toy.stps was renamed; write toy.steps",
        "params.yaml, line 3: toy.named.a.words was renamed; write toy.named.a.min_words",
        "params.yaml, line 5: toy.inner.name: the value 'y' was renamed; write 'x'",
    ]
    assert told("toy: {steps: 3, inner: {name: x}}").steps == 3


def test_no_new_name_is_an_old_one() -> None:
    for new in renamed_keys.RENAMED_KEYS.values():
        assert renamed_keys.new_key(new.split(".")) is None


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadParams, match=r"there is no params\.yaml in .*Run from the folder of the project"):
        params.check_names()


def test_flatten_names_each_leaf_by_its_path() -> None:
    flat = params.flatten(Toy(named={"a": Inner()}))
    assert (flat["steps"], flat["inner.min_words"], flat["named.a.name"], flat["either"]) == (10, 5, "x", None)
