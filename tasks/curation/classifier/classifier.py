"""A linear text classifier on hashed n-grams (1 to 4 characters, 1 and 2 words), for spam, quality or any other label.

A third block of features describes the shape of a text: its length, long numbers, addresses, prices, capitals. Each
block is weighted by tf-idf, with 1 + log(count) as term frequency, and scaled to a fixed length. The weights are those
of a support vector machine with squared hinge loss, trained by dual coordinate descent (Hsieh et al. 2008). A sigmoid
converts margins to probabilities (Platt 1999); it is fitted to margins of texts that were not trained on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tasks.curation.arrays import BoolArray, Float64Array, Int16Array, Int64Array, UInt16Array, UInt32Array
from tasks.curation.classifier import classifier_kernels
from tasks.curation.signals.signals import string_buffers
from tasks.curation.text import folding
from tasks.errors import BadInput

FORMAT = "athanor-linear-2"
METADATA_KEY = "athanor"  # a single key with JSON: safetensors writes several keys in no fixed order
INT16_MAX = 32767

MAX_NEWTON_STEPS, MAX_STEP, TOLERANCE = 100, 5, 1e-9  # of Platt's sigmoid
MIN_VARIANCE, RIDGE = 1e-12, 1e-9  # keep its Hessian invertible where all margins are equal or all predictions sure

Labels = BoolArray


class Params(BaseModel, frozen=True, extra="forbid"):
    """How a classifier is trained."""

    bits: int = Field(
        18,
        ge=8,
        le=24,
        description="Number of bits of a feature's number; with fewer bits, more n-grams share one of 2**bits weights.",
    )
    max_characters: int = Field(
        4_000, ge=16, le=60_000, description="Number of characters at the start of a text that are read."
    )
    penalty: float = Field(
        16.0,
        gt=0,
        description="Weight of training errors relative to the norm of the weights (C of a support vector machine).",
    )
    shape: float = Field(
        0.3,
        ge=0,
        description="Influence of the features that describe the shape of a text (its length, long numbers, addresses, "
        "prices, capitals), relative to those of characters and of words.",
    )
    epochs: int = Field(10, ge=1, description="Number of passes over the training texts.")
    folds: int = Field(5, ge=2, description="Number of folds of the cross-validation.")
    seed: int = Field(0, ge=0, description="Seed of the folds and of the order of the training texts.")


@dataclass(frozen=True, slots=True)
class Classifier:
    """A trained classifier. weights: int16[2**bits, 2]; per feature its idf, and its weight times its idf.

    Each column is divided by the greatest absolute value of the column (`maxima`), and INT16_MAX stands for it: 16 bits
    are enough for scores, and a processor's cache holds twice as many of them as of 32 bits.
    """

    params: Params
    weights: Int16Array
    maxima: tuple[float, float]
    bias: float
    slope: float = -1.0
    offset: float = 0.0

    def margins(self, texts: pa.Array) -> Float64Array:
        """Return the signed distance of each text (an array of large_string) from the decision boundary: float64[n]."""
        data, offsets = string_buffers(texts)
        scores = np.empty(len(texts))
        classifier_kernels.score(
            data,
            offsets,
            *tables(),
            self.params.bits,
            self.params.max_characters,
            self.params.shape,
            self.weights,
            scores,
        )
        # Each column was divided by its maximum, so that the kernel's ratio is in units of max_idf / max_weight.
        max_idf, max_weight = self.maxima
        return np.asarray(scores * (max_weight / max_idf) + self.bias)

    def probabilities(self, texts: pa.Array) -> Float64Array:
        """Return the probability that each text has the positive label: float64[n]."""
        return np.asarray(1 / (1 + np.exp(self.slope * self.margins(texts) + self.offset)))

    def save(self, path: Path) -> None:
        """Write the classifier as one safetensors file."""
        numbers = {"maxima": self.maxima, "bias": self.bias, "slope": self.slope, "offset": self.offset}
        body = json.dumps({"format": FORMAT, "params": self.params.model_dump(), "numbers": numbers}, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights}, path, {METADATA_KEY: body})


@cache
def tables() -> tuple[UInt16Array, UInt32Array]:
    """Return the classes of all code points, uint16[TABLE_SIZE], and the folded code points, uint32[TABLE_SIZE]."""
    size = classifier_kernels.TABLE_SIZE
    return classifier_kernels.class_table(), folding.fold_table()[:size] & np.uint32(folding.CODE)


def load(path: Path) -> Classifier:
    """Read a saved classifier. Raises BadInput if the file is not a classifier of this version."""
    try:
        with safe_open(path, "numpy") as file:
            body, weights = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}")), file.get_tensor("weights")
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{path} is not a classifier file ({error}). Train a classifier first: python -m flows.classifier."
        ) from error
    if body.get("format") != FORMAT:
        raise BadInput(
            f"{path} is not a classifier of this version: expected the format {FORMAT!r}, got {body.get('format')!r}. "
            "Train it again: python -m flows.classifier."
        )
    numbers = body["numbers"] | {"maxima": tuple(body["numbers"]["maxima"])}
    return Classifier(Params(**body["params"]), weights, **numbers)


@lru_cache(4)
def load_cached(file: Path) -> Classifier:
    """Read a saved classifier once per process. Raises BadInput as `load`."""
    return load(file)


def train(texts: pa.Array, labels: Labels, params: Params) -> tuple[Classifier, Float64Array]:
    """Train on all texts. Return the classifier and the margin of each text by cross-validation: float64[n].

    texts: an array of large_string; labels: bool[n]. The probabilities are calibrated on these margins. Raises BadInput
    if all labels are equal.
    """
    if labels.all() or not labels.any():
        raise BadInput("A classifier needs texts of both labels, but all texts have the same label.")
    margins = np.empty(len(labels))
    for fold in stratified_folds(labels, params, text_groups(texts)):
        train_rows = np.setdiff1d(np.arange(len(labels)), fold)
        fold_classifier = _fit(texts.take(pa.array(train_rows)), labels[train_rows], params)
        margins[fold] = fold_classifier.margins(texts.take(pa.array(fold)))
    # Margins of texts that were trained on would be too large, and the probabilities too extreme.
    slope, offset = fit_sigmoid(margins, labels)
    uncalibrated = _fit(texts, labels, params)
    return replace(uncalibrated, slope=slope, offset=offset), margins


def cross_validate(texts: pa.Array, labels: Labels, params: Params) -> Float64Array:
    """Return the probability of each text by a classifier that was trained and calibrated on the other folds only."""
    probabilities = np.empty(len(labels))
    for fold in stratified_folds(labels, params, text_groups(texts)):
        train_rows = np.setdiff1d(np.arange(len(labels)), fold)
        fold_classifier, _ = train(texts.take(pa.array(train_rows)), labels[train_rows], params)
        probabilities[fold] = fold_classifier.probabilities(texts.take(pa.array(fold)))
    return probabilities


def text_groups(texts: pa.Array) -> Int64Array:
    """Return a number for each text, int64 [n], equal for texts that are equal when folded.

    Folded texts have no case, width, digits, punctuation or white space. A text and its copy with another telephone
    number must not be in different folds: the classifier would be tested on a text that it was trained on.
    """
    table = folding.fold_table()
    numbers: dict[bytes, int] = {}
    groups = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts.to_pylist()):
        codes = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32)
        folded = table[np.minimum(codes, folding.SIZE - 1)]
        letters = folded[(folded > folding.CODE) & ((folded & folding.CODE) > ord("9"))]  # words without ASCII digits
        groups[row] = numbers.setdefault(letters.tobytes(), len(numbers))
    return groups


def stratified_folds(labels: Labels, params: Params, groups: Int64Array) -> Sequence[Int64Array]:
    """Divide the rows into `folds` random folds with about the same share of each label; a group is in one fold.

    groups: of `text_groups`. The label of a group is that of its first row. Raises BadInput if a label has fewer
    groups than there are folds.
    """
    generator = np.random.default_rng(params.seed)
    _, first_rows, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    fold_of_group = np.empty(len(first_rows), np.int64)
    for label in (False, True):
        members = generator.permutation(np.flatnonzero(labels[first_rows] == label))
        if len(members) < params.folds:
            raise BadInput(
                f"Only {len(members)} different texts have the label {'positive' if label else 'negative'}; "
                f"cross-validation in {params.folds} folds needs at least {params.folds} of each label."
            )
        fold_of_group[members] = np.arange(len(members)) % params.folds
    fold_of_row = fold_of_group[group_of_row]
    return [np.flatnonzero(fold_of_row == fold) for fold in range(params.folds)]


def f1(predictions: Labels, labels: Labels) -> float:
    """Return the harmonic mean of precision and recall of the positive label."""
    return float(2 * (predictions & labels).sum() / max(predictions.sum() + labels.sum(), 1))


def fit_sigmoid(margins: Float64Array, labels: Labels) -> tuple[float, float]:
    """Return slope and offset of 1 / (1 + exp(slope * margin + offset)), fitted by Newton's method (Platt 1999).

    The targets are not 0 and 1 but Platt's, which assume one more example of each label, so that the fit is finite.
    """
    num_positive, num_negative = int(labels.sum()), int((~labels).sum())
    targets = np.where(labels, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    slope, offset = 0.0, float(np.log((num_negative + 1) / (num_positive + 1)))
    for _ in range(MAX_NEWTON_STEPS):
        p = 1 / (1 + np.exp(slope * margins + offset))
        errors, variances = targets - p, np.maximum(p * (1 - p), MIN_VARIANCE)
        gradient = np.array([(errors * margins).sum(), errors.sum()])
        cross = (variances * margins).sum()
        hessian = np.array([[(variances * margins**2).sum() + RIDGE, cross], [cross, variances.sum() + RIDGE]])
        step = np.linalg.solve(hessian, gradient)
        # Far from the optimum the quadratic model is wrong: a full step could overshoot.
        slope -= float(np.clip(step[0], -MAX_STEP, MAX_STEP))
        offset -= float(np.clip(step[1], -MAX_STEP, MAX_STEP))
        if np.abs(step).max() < TOLERANCE:
            break
    return slope, offset


def _fit(texts: pa.Array, labels: Labels, params: Params) -> Classifier:
    """Train the weights and the bias; the sigmoid is not fitted."""
    data, offsets = string_buffers(texts)
    num_features = 1 << params.bits
    ends = np.zeros(len(texts) + 1, np.int64)
    # A character starts at most 4 character n-grams and 2 word n-grams; 8 features describe the shape.
    capacity = int((offsets[1:] - offsets[:-1]).clip(max=4 * params.max_characters).sum()) * 6 + 8 * len(texts) + 1
    features, values = np.empty(capacity, np.int64), np.empty(capacity, np.float32)
    classifier_kernels.extract(data, offsets, *tables(), params.bits, params.max_characters, features, values, ends)
    # Each feature occurs once per text, so that this counts texts, not occurrences.
    num_texts = np.bincount(features[: ends[-1]], minlength=num_features)
    idf = (np.log((1 + len(texts)) / (1 + num_texts)) + 1).astype(np.float32)
    classifier_kernels.apply_idf(features, values, ends, idf, params.bits, params.shape)
    weights, signs = np.zeros(num_features + 1), np.where(labels, 1.0, -1.0)
    generator, dual = np.random.default_rng(params.seed), np.zeros(len(labels))
    for _ in range(params.epochs):
        order = generator.permutation(len(labels))
        classifier_kernels.descend(features, values, ends, signs, order, params.penalty, weights, dual)
    # Scoring multiplies term frequencies by weight times idf: store this product, and the idf for the lengths.
    table = np.stack([idf, weights[:num_features] * idf], axis=1)
    maxima = np.maximum(np.abs(table).max(axis=0), MIN_VARIANCE)
    quantized = np.rint(table * (INT16_MAX / maxima)).astype(np.int16)
    return Classifier(params, quantized, (float(maxima[0]), float(maxima[1])), float(weights[num_features]))
