"""Classifiers from labeled text: written, reported and used by filters; errors name file and line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.curation import tasks
from tasks.curation.classifier import classifier, training
from tasks.errors import BadInput
from tasks.files import read_json
from tasks.reports import Report, Timings
from tests.curation.classifier.test_classifier import messages
from tests.curation.test_filters import first_reasons


def labeled(path: Path) -> Path:
    texts, labels = messages(0)
    rows = [{"text": t, "label": "spam" if y else "ham"} for t, y in zip(texts.to_pylist(), labels, strict=True)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return path


def train(tmp_path: Path) -> Path:
    """Train a classifier as the flow does; return its file."""
    params = training.ClassifierParams(examples=labeled(tmp_path / "spam.jsonl"), positive="spam", bits=14)
    report = Report("classifier")
    tasks.train_classifier.fn("spam", params, tmp_path, report, Timings("classifier", tmp_path / "timings"))
    report.write(tmp_path / "reports")
    return tmp_path / "classifiers" / "spam.safetensors"


def test_written_reported_and_asked_by_the_filters(tmp_path: Path) -> None:
    file = train(tmp_path)
    body = read_json(tmp_path / "reports" / "classifier.json")
    assert body["counts"] == {"spam_texts": 200, "spam_positive": 100}
    assert body["spam"]["f1"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 200}
    assert body["spam"]["brier"]["value"] < 0.02
    assert (tmp_path / "reports" / "classifier" / "spam_calibration.csv").is_file()
    texts = ("lunch home today prize home lunch today home", "lunch home today home home lunch today home")
    assert first_reasons("spam", *texts, file=file) == ["classifier", ""]
    assert first_reasons("spam", *texts) == ["", ""]
    assert first_reasons("quality_model", *texts, file=file) == ["", "low_quality"]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    first, report = train(tmp_path).read_bytes(), (tmp_path / "reports" / "classifier.json").read_bytes()
    classifier.load_cached.cache_clear()
    assert train(tmp_path).read_bytes() == first
    assert (tmp_path / "reports" / "classifier.json").read_bytes() == report


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label": "spam"', "line 1: not valid JSON"),
        ('{"text": "", "label": "spam"}', "line 1: expected .* not empty"),
        ('["a"]', "line 1: expected"),
        ('{"text": "a"}', "line 1: expected a field `label`"),
        ('{"text": "a", "label": true}', "0 of 1 texts with the label 'spam' .labels in the file: true"),
        ("", "labels in the file: none"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "spam.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        training.read_examples(training.ClassifierParams(examples=path, positive="spam"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.jsonl cannot be read"):
        training.read_examples(training.ClassifierParams(examples=tmp_path / "nowhere.jsonl", positive="spam"))


@pytest.mark.parametrize("models", [{}, {"a/b": {"examples": "x", "positive": "y"}}])
def test_names_are_file_names(models: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        training.Params(models=models)


def test_calibration_by_hand() -> None:
    rows = training.calibration(np.array([0.05, 0.15, 0.15, 1.0]), np.array([False, True, False, True]))
    assert [(row["from"], row["texts"], row["positive"]) for row in rows] == [
        (0.0, 1, 0.0),
        (0.1, 2, 0.5),
        (0.9, 1, 1.0),
    ]


def test_documents_that_differ_from_the_training_texts() -> None:
    texts, _ = messages(0)
    settings, report = classifier.Params(bits=12, folds=2), Report("classifier")
    names = [f"{a}_{b}" for a in "abcdefghij" for b in "abcdefghijklmnopqrst"]
    same = messages(1)[0]
    other = pa.array([f"def {name}(value): return value" for name in names], pa.large_string())
    for name, documents in (("same", same), ("other", other)):
        training.warn_if_different(report, name, training.compare_with(texts, documents, settings))
    assert report.scores["same_difference"] < 0.7 < 0.95 < report.scores["other_difference"]
    assert [note.split(" that")[0] for note in report.notes] == ["The documents differ from the texts"]
    assert "other" in report.notes[0]
