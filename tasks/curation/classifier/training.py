"""Classifiers from labeled text: trained, cross-validated, calibrated, reported; the filters use them."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import Float64Array
from tasks.curation.classifier import classifier
from tasks.curation.classifier.classifier import Classifier, Labels
from tasks.errors import BadInput
from tasks.reports import Report, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_BINS, NUM_RESAMPLES = 10, 200


class Lesson(classifier.Params, frozen=True, extra="forbid"):
    """One classifier: JSON lines with `text` and `label`, and the label that it is to be sure of."""

    examples: Path
    positive: str


class Params(BaseModel, frozen=True, extra="forbid"):
    """Classifiers by name, each written to data/classifiers/<name>.safetensors."""

    models: dict[str, Lesson] = Field(min_length=1)

    def model_post_init(self, _: Any) -> None:
        """Raises ValueError for a name that is no plain file name."""
        for name in self.models:
            if not re.fullmatch(r"\w[\w-]*", name):
                raise ValueError(f"models: {name!r} is no name for a file; use letters, digits, - and _")


def read(lesson: Lesson) -> tuple[pa.Array, Labels]:
    """Texts, large_string, and which have the positive label. Raises BadInput, naming file and line."""
    try:
        lines = lesson.examples.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInput(f"the labeled text {lesson.examples} cannot be read: {error}") from error
    found = [
        _example(line, f"{lesson.examples}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    labels = np.array([label == lesson.positive.lower() for _, label in found], np.bool_)
    fewest = int(min(labels.sum(), (~labels).sum()))
    if fewest < lesson.folds:
        seen = ", ".join(sorted({label for _, label in found})[:10]) or "none"
        raise BadInput(
            f"{lesson.examples} has {int(labels.sum())} of {len(labels)} texts with the label {lesson.positive!r} "
            f"(labels there: {seen}). Cross-validation in {lesson.folds} folds needs that many of both kinds."
        )
    return pa.array([text for text, _ in found], pa.large_string()), labels


def teach(lesson: Lesson) -> tuple[Classifier, Float64Array, Labels]:
    """The classifier trained on all, the probability of each text by one that had not seen it, and the labels."""
    texts, labels = read(lesson)
    dials = classifier.Params(**lesson.model_dump(exclude={"examples", "positive"}))
    return classifier.train(texts, labels, dials)[0], classifier.cross_validated(texts, labels, dials), labels


def describe(report: Report, name: str, probabilities: Float64Array, labels: Labels) -> None:
    """Add to the report how right the classifier is, and how right its probabilities are."""
    guesses = probabilities > 0.5
    report.counts |= {f"{name}_texts": len(labels), f"{name}_positive": int(labels.sum())}
    report.scores[name] = {
        "f1": _score(classifier.f1, guesses, labels),
        "precision": _score(_precision, guesses, labels),
        "recall": _score(lambda found, truth: _precision(truth, found), guesses, labels),
        "brier": _score(lambda p, truth: float(np.mean((p - truth) ** 2)), probabilities, labels),
    }
    report.tables[f"{name}_calibration"] = calibration(probabilities, labels)
    report.figures[f"{name}_calibration"] = _draw(report.tables[f"{name}_calibration"], name)


def calibration(probabilities: Float64Array, labels: Labels) -> list[dict[str, Any]]:
    """Texts by predicted probability in NUM_BINS equal parts: the mean prediction, and the share that was positive."""
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    rows = []
    for place in np.unique(bins):
        mine = bins == place
        means = {"predicted": float(probabilities[mine].mean()), "positive": float(labels[mine].mean())}
        rows.append({"from": place / NUM_BINS, "texts": int(mine.sum()), **means})
    return rows


def _example(line: bytes, where: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: no JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not record["text"].strip():
        raise BadInput(f'{where}: expected {{"text": "...", "label": ...}} with a text that is not empty')
    if not isinstance(record.get("label"), str | bool | int):
        raise BadInput(f"{where}: expected a `label`: a word, a number, true or false")
    return record["text"], str(record["label"]).lower()


def _precision(found: Labels, truth: Labels) -> float:
    return float((found & truth).sum() / max(found.sum(), 1))


def _score(measure: Any, guesses: npt.NDArray[Any], labels: Labels) -> Score:
    """With the 95 % interval of a bootstrap over texts."""
    dice = np.random.default_rng(0)
    rows = (dice.integers(0, len(labels), len(labels)) for _ in range(NUM_RESAMPLES))
    low, high = np.quantile([measure(guesses[some], labels[some]) for some in rows], [0.025, 0.975]).tolist()
    return Score(measure(guesses, labels), low, high, len(labels))


def _draw(rows: list[dict[str, Any]], name: str) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4), layout="tight")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    axes.plot([row["predicted"] for row in rows], [row["positive"] for row in rows], "o-", color="#4477aa")
    axes.set(xlabel="predicted probability", ylabel="share that was positive", title=name)
    return figure
