"""Train classifiers on labeled text, cross-validate them, and report how good they and their probabilities are."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from tasks import tables
from tasks.curation.arrays import Float64Array
from tasks.curation.classifier import classifier
from tasks.curation.classifier.classifier import Classifier, Labels
from tasks.errors import BadInput
from tasks.reports import Report, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_BINS, NUM_RESAMPLES = 10, 200
NUM_COMPARED, COMPARED_CHARACTERS = 1_000, 200  # texts of each side, and the characters of each that are compared
MAX_DIFFERENCE = 0.8
MAX_LABELS = 10  # labels that an error message lists


class ClassifierParams(classifier.Params, frozen=True, extra="forbid"):
    """The training data and the settings of one classifier."""

    examples: Path = Field(description='Labeled text: a file of JSON lines such as {"text": "...", "label": "spam"}.')
    positive: str = Field(description="The label whose probability the classifier predicts.")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Which classifiers are trained."""

    models: dict[str, ClassifierParams] = Field(
        min_length=1, description="Classifiers by name; each is written to data/classifiers/<name>.safetensors."
    )

    def model_post_init(self, _: Any) -> None:
        """Raises ValueError for a name that is not a plain file name."""
        for name in self.models:
            if not re.fullmatch(r"\w[\w-]*", name):
                raise ValueError(f"models: {name!r} is not a valid name for a file; use letters, digits, - and _")


def read_examples(params: ClassifierParams) -> tuple[pa.Array, Labels]:
    """Return the labeled texts (an array of large_string), and which have the positive label: bool[n].

    Raises BadInput, naming file and line, if a line is not valid or if there are too few texts of a label.
    """
    try:
        lines = params.examples.read_bytes().split(b"\n")
    except OSError as error:
        raise BadInput(f"The labeled text {params.examples} cannot be read: {error}") from error
    examples = [
        _parse_line(line, f"{params.examples}, line {number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    labels = np.array([label == params.positive.lower() for _, label in examples], np.bool_)
    if min(labels.sum(), (~labels).sum()) < params.folds:
        present = ", ".join(sorted({label for _, label in examples})[:MAX_LABELS]) or "none"
        raise BadInput(
            f"{params.examples} has {int(labels.sum())} of {len(labels)} texts with the label {params.positive!r} "
            f"(labels in the file: {present}). Cross-validation in {params.folds} folds needs at least {params.folds} "
            "texts with this label and as many without it."
        )
    return pa.array([text for text, _ in examples], pa.large_string()), labels


def train_and_validate(params: ClassifierParams) -> tuple[Classifier, Float64Array, Labels]:
    """Train a classifier on all examples. Return it, cross-validated probabilities float64[n], and labels bool[n]."""
    texts, labels = read_examples(params)
    chosen = settings(params)
    trained, _ = classifier.train(texts, labels, chosen)
    return trained, classifier.cross_validate(texts, labels, chosen), labels


def settings(params: ClassifierParams) -> classifier.Params:
    """Return how the classifier is trained, without its examples."""
    return classifier.Params(**params.model_dump(exclude={"examples", "positive"}))


def add_to_report(report: Report, name: str, probabilities: Float64Array, labels: Labels) -> None:
    """Add to the report how good the predictions of a classifier are, and how well its probabilities are calibrated."""
    predictions = probabilities > 0.5
    report.counts |= {f"{name}_texts": len(labels), f"{name}_positive": int(labels.sum())}
    report.scores[name] = {
        "f1": _score(classifier.f1, predictions, labels),
        "precision": _score(_precision, predictions, labels),
        "recall": _score(_recall, predictions, labels),
        "brier": _score(_brier, probabilities, labels),
    }
    report.tables[f"{name}_calibration"] = calibration(probabilities, labels)
    report.figures[f"{name}_calibration"] = _draw(report.tables[f"{name}_calibration"], name)


def compare_documents(report: Report, name: str, params: ClassifierParams, folder: Path) -> None:
    """Compare the first documents that were ingested, if there are any, with the training texts, and report it."""
    part = next(tables.batches(folder), None) if folder.is_dir() else None
    if part is not None and part.num_rows:
        documents = part["text"].combine_chunks()
        warn_if_different(report, name, compare_with(read_examples(params)[0], documents, settings(params)))


def compare_with(texts: pa.Array, documents: pa.Array, params: classifier.Params) -> float | None:
    """Return how well a classifier distinguishes training texts from documents to judge: 0.5 not at all, 1 always.

    It is None if there are too few different texts on one side to say so.

    This is a two-sample test: the share of unseen texts, as many of each side, that a classifier assigns to the right
    side (arXiv:1610.06545). Only the beginning of a text is compared, so that its length alone decides little.
    """
    generator = np.random.default_rng(params.seed)
    number = min(NUM_COMPARED, len(texts), len(documents))
    sides = [side.take(pa.array(generator.permutation(len(side))[:number])) for side in (texts, documents)]
    both = pc.utf8_slice_codeunits(pa.concat_arrays(sides), 0, COMPARED_CHARACTERS)
    if min(len(set(classifier.text_groups(side).tolist())) for side in sides) < 4 * params.folds:
        return None
    is_document = np.arange(2 * number) >= number
    probabilities = classifier.cross_validate(both, is_document, params)
    return float(((probabilities > 0.5) == is_document).mean())


def warn_if_different(report: Report, name: str, difference: float | None) -> None:
    """Add the difference to the report, and a warning if the scores may not hold for the documents."""
    if difference is None:
        return
    report.scores[f"{name}_difference"] = difference
    if difference > MAX_DIFFERENCE:
        report.notes.append(
            f"The documents differ from the texts that the classifier {name} was trained on: another classifier tells "
            f"them apart in {difference:.0%} of cases (50 % if they were alike). Its scores may not hold for them. "
            "Label some of the documents, and add them to the examples."
        )


def calibration(probabilities: Float64Array, labels: Labels) -> list[dict[str, Any]]:
    """Return one row per bin of predicted probability: texts, mean prediction, and share with the positive label.

    There are NUM_BINS bins of equal width. Bins without texts have no row.
    """
    # A probability of exactly 1 belongs to the last bin.
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    rows = []
    for number in np.unique(bins):
        in_bin = bins == number
        means = {"predicted": float(probabilities[in_bin].mean()), "positive": float(labels[in_bin].mean())}
        rows.append({"from": number / NUM_BINS, "texts": int(in_bin.sum()), **means})
    return rows


def _parse_line(line: bytes, location: str) -> tuple[str, str]:
    """Return text and label (in lower case) of one line. Raises BadInput, naming `location`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{location}: not valid JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str) or not record["text"].strip():
        raise BadInput(f'{location}: expected {{"text": "...", "label": ...}} with a text that is not empty')
    # Labels are compared as lower-case text, so that true and "True" are equal.
    if not isinstance(record.get("label"), str | bool | int):
        raise BadInput(f"{location}: expected a field `label` with a word, a number, true or false")
    return record["text"], str(record["label"]).lower()


def _precision(predictions: Labels, labels: Labels) -> float:
    return float((predictions & labels).sum() / max(predictions.sum(), 1))


def _recall(predictions: Labels, labels: Labels) -> float:
    return _precision(labels, predictions)


def _brier(probabilities: Float64Array, labels: Labels) -> float:
    """Return the mean squared error of the probabilities."""
    return float(np.mean((probabilities - labels) ** 2))


def _score(measure: Callable[[Any, Labels], float], predictions: npt.NDArray[Any], labels: Labels) -> Score:
    """Return the value of a measure, with the 95 % interval of a bootstrap over texts."""
    generator = np.random.default_rng(0)
    resamples = (generator.integers(0, len(labels), len(labels)) for _ in range(NUM_RESAMPLES))
    values = [measure(predictions[rows], labels[rows]) for rows in resamples]
    low, high = np.quantile(values, [0.025, 0.975]).tolist()
    return Score(measure(predictions, labels), low, high, len(labels))


def _draw(rows: list[dict[str, Any]], name: str) -> "Figure":
    """Draw the rows of `calibration`; the gray diagonal is perfect calibration."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4), layout="tight")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    axes.plot([row["predicted"] for row in rows], [row["positive"] for row in rows], "o-", color="#4477aa")
    axes.set(xlabel="predicted probability", ylabel="share with the positive label", title=name)
    return figure
