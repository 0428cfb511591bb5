"""Every name becomes one that MLflow accepts, different names stay different, and the original is in a tag."""

import pytest

from flows.runtime.mlflow_names import MAX_CHARS, accepted, renamed_tags

NAMES = [
    *("a|b", "a_b?", "It's better", "更好（更完整）", "a//b", "../x", "..a", "/a", "a/", "", ".", "..", "x" * 400),
    *("a\nb", "a/./b", "\x00", "é%"),
]


@pytest.mark.parametrize("name", ["loss", "gates/min: 3", "更好", "a b.c-d", "system/gpu_0"])
def test_accepted_names_stay(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert accepted(name) == name
    _validate_metric_name(accepted(name))


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_converted(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_tag_name

    assert len(accepted(name)) <= MAX_CHARS
    _validate_metric_name(accepted(name))
    ((tag, original),) = renamed_tags([name, "loss"]).items()
    _validate_tag_name(tag)
    assert len(tag) <= MAX_CHARS
    assert original == name


def test_different_names_stay_different() -> None:
    assert len({accepted(name) for name in [*NAMES, "a_b", "a&b", "loss"]}) == len(NAMES) + 3
