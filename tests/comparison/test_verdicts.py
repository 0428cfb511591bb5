"""Verdicts from items on disk, which are written by the code of evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.comparison import page, paired, reading, verdicts
from tasks.comparison.reading import ItemKey, Measurement, Subject
from tasks.comparison.verdicts import Settings
from tasks.errors import BadInput, BadParams
from tasks.evaluation.items import Item, write

N = 400


def make_run(
    folder: Path, scores: "np.ndarray[Any, Any]", name: str = "gold", model: str = "ppo", first_id: int = 0,
    common: float = 0.0, **body: Any,
) -> Path:  # fmt: skip
    """Write a folder of reports with one metric. common: the share of questions with the same answer."""
    answers = ["same" if index < common * len(scores) else f"answer {index}" for index in range(len(scores))]
    items = [
        Item(name, model, f"id{first_id + index}", "", f"question {index}", answers[index], float(score))
        for index, score in enumerate(scores)
    ]
    write(folder / "evaluation" / "items" / name, items)
    (folder / "evaluation.json").write_text(json.dumps({"schema_version": 1, **body}))
    return folder


def make_subject(folder: Path, scores: "np.ndarray[Any, Any]", **changes: Any) -> Subject:
    model = changes.get("model", "ppo")
    return reading.read(folder.name, make_run(folder, scores, **changes), model)


@pytest.fixture
def base() -> "np.ndarray[Any, Any]":
    return np.random.default_rng(0).random(N)


def test_better_worse_and_equivalent(tmp_path: Path, base: "np.ndarray[Any, Any]") -> None:
    champion = make_subject(tmp_path / "champion", base)
    noise = np.random.default_rng(1).normal(0, 0.02, N)
    higher = make_subject(tmp_path / "higher", base + 0.05 + noise)
    similar = make_subject(tmp_path / "similar", base + noise - noise.mean())
    assert verdicts.primary(higher, champion).outcome == "better"
    assert verdicts.primary(champion, higher).outcome == "worse"
    assert verdicts.primary(similar, champion).outcome == "equivalent"


def test_a_null_model_is_not_better(tmp_path: Path, base: "np.ndarray[Any, Any]") -> None:
    """One answer to 95 % of the questions, where the champion has other answers; unless the champion has one, too."""
    champion = make_subject(tmp_path / "champion", base / 2)
    null = make_subject(tmp_path / "null", base, common=0.95)
    verdict = verdicts.primary(null, champion)
    assert verdict.outcome == "not comparable"
    assert "null gives the same answer to 95% of the questions" in verdict.reason
    assert verdicts.primary(champion, null).outcome == "worse"
    assert verdicts.primary(make_subject(tmp_path / "varied", base, common=0.8), champion).outcome == "better"
    assert verdicts.primary(null, make_subject(tmp_path / "equal", base / 2, common=0.6)).outcome == "better"


def test_small_losses_are_better(tmp_path: Path, base: "np.ndarray[Any, Any]") -> None:
    names = {"name": "multiple_choice_bits_per_byte.documents"}
    a, b = make_subject(tmp_path / "a", base - 0.1, **names), make_subject(tmp_path / "b", base, **names)
    verdict = verdicts.primary(a, b)
    assert (verdict.outcome, verdict.metric) == ("better", "multiple_choice_bits_per_byte.documents.ppo")
    assert verdict.test is not None
    assert verdict.test.mean_a < verdict.test.mean_b


def test_too_few_items_are_not_comparable_and_say_how_many_are_needed(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    a, b = (make_subject(tmp_path / name, generator.random(30)) for name in ("a", "b"))
    verdict = verdicts.primary(a, b)
    assert verdict.outcome == "not comparable"
    assert "items would decide it" in verdict.reason


def test_other_test_sets_are_not_comparable(tmp_path: Path, base: "np.ndarray[Any, Any]") -> None:
    """300 of 400 items are in both; at least 90 % are required."""
    a, b = make_subject(tmp_path / "a", base + 1), make_subject(tmp_path / "b", base, first_id=100)
    verdict = verdicts.primary(a, b)
    assert verdict.outcome == "not comparable"
    assert "300 items are in both" in verdict.reason
    assert verdicts.primary(a, b, Settings(min_common=0.7)).outcome == "better"


def test_contaminated_test_data_and_missing_metrics_are_not_comparable(
    tmp_path: Path, base: "np.ndarray[Any, Any]"
) -> None:
    b = make_subject(tmp_path / "b", base)
    leaked = make_subject(
        tmp_path / "a", base + 1, measured={"contamination": "3 test documents are training documents"}
    )
    assert "3 test documents" in verdicts.primary(leaked, b).reason
    other = make_subject(tmp_path / "c", base, name="bits_per_byte", model="ppo")
    assert "has not measured gold.MODEL" in verdicts.primary(other, b).reason


def test_the_same_bytes_are_equivalent(tmp_path: Path, base: "np.ndarray[Any, Any]") -> None:
    measured = {"models": {"ppo": "abc"}}
    a, b = (make_subject(tmp_path / name, base, measured=measured) for name in ("a", "b"))
    assert "byte by byte" in verdicts.primary(a, b).reason
    assert {verdict.outcome for verdict in verdicts.compare(a, b)[0]} == {"equivalent"}


def test_holm_takes_back_a_difference_that_many_metrics_explain(tmp_path: Path) -> None:
    verdict = verdicts.Verdict("better", "m", "", paired.compare([1.0] * 6 + [0.0], [0.0] * 6 + [0.0]))
    assert verdicts.corrected(verdict, 0.3).outcome == "not comparable"
    assert verdicts.corrected(verdict, 0.01).outcome == "better"


def test_pages_show_verdict_examples_and_curves(tmp_path: Path, base: "np.ndarray[Any, Any]") -> None:
    a, b = make_subject(tmp_path / "a<b>", base + 0.1), make_subject(tmp_path / "b", base)
    primary = verdicts.primary(a, b)
    examples = verdicts.examples(a, b, Settings(), 2)
    assert [len(rows) for rows in examples.values()] == [2, 0]
    section = page.Section(a.label, b.label, primary, verdicts.compare(a, b)[0], examples)
    curves = {"a<b>": {("sft", "loss"): [(1.0, 3.0), (2.0, 1.0)]}, "b": {("sft", "loss"): [(1.0, 3.0)]}}
    html = page.html([section], curves)
    assert (html.count("<polyline"), html.count("<circle")) == (1, 1)  # a curve of one point is a dot
    assert "a<b>" not in html
    assert "http" not in html
    text = page.markdown([section])
    assert "is better than b on gold.ppo" in text
    assert "question" in text


def test_missing_items_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Run evaluation there first"):
        reading.read("x", tmp_path)
    (tmp_path / "evaluation.json").write_text('{"schema_version": 1}')
    with pytest.raises(BadInput, match="item by item"):
        reading.read("x", tmp_path)


def test_a_metric_that_no_run_has_measured_is_refused_with_the_most_similar_one() -> None:
    run = Subject("a", Path(), "sft", items={("gold", "sft"): {ItemKey("x", 0): Measurement("", "", "", 1.0)}})
    verdicts.require_metric([run], "gold.MODEL")
    verdicts.require_metric([run], "gold")
    with pytest.raises(BadParams, match=r"no run has measured 'gld'; did you mean 'gold'"):
        verdicts.require_metric([run], "gld")
