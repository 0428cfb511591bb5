"""A linear classifier on hashed n-grams: characters 1 to 4, words 1 and 2; for spam, quality or whatever is labeled.

Each block of features is weighted by 1 + log(count) and inverse document frequency and scaled to length 1, as in
tf-idf; the weights are those of a support vector machine with squared hinge, found by dual coordinate descent (Hsieh et
al. 2008); its margin becomes a probability by Platt's sigmoid, fitted to margins of texts left out of training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tasks.curation.arrays import BoolArray, Float32Array, Float64Array, Int16Array, Int64Array
from tasks.curation.classifier import classifier_kernels
from tasks.curation.signals.signals import buffers
from tasks.errors import BadInput

FORMAT, ABOUT = "athanor-linear-1", "athanor"  # one key: safetensors keeps several in no fixed order
Labels = BoolArray


class Params(BaseModel, frozen=True, extra="forbid"):
    """How to train."""

    bits: int = Field(18, ge=8, le=24)  # 2**bits weights; more n-grams share one where there are fewer
    max_characters: int = Field(4_000, ge=16, le=60_000)  # what comes later in a text is not looked at
    penalty: float = Field(16.0, gt=0)  # of errors, against large weights
    epochs: int = Field(10, ge=1)
    folds: int = Field(5, ge=2)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True)
class Classifier:
    """weights: float32 [2**bits, 2], of each feature its idf and its weight times idf."""

    params: Params
    weights: Float32Array
    bias: float
    slope: float = -1.0
    offset: float = 0.0
    small: Int16Array = field(init=False, repr=False, compare=False)  # weights, each column / its largest

    def __post_init__(self) -> None:
        """Round the weights to 16 bits for looking them up: a cache holds twice as many."""
        object.__setattr__(self, "small", np.rint(self.weights * (32767 / self._largest())).astype(np.int16))

    def _largest(self) -> Float64Array:
        return np.asarray(np.maximum(np.abs(self.weights).max(axis=0), 1e-9), np.float64)

    def margins(self, texts: pa.Array) -> Float64Array:
        """The signed distance of each text of a large_string array from the border."""
        data, offsets = buffers(texts)
        out = np.empty(len(texts))
        classifier_kernels.score(
            data, offsets, *classifier_kernels.tables(), self.params.bits, self.params.max_characters, self.small, out
        )
        idf, weight = self._largest()
        return np.asarray(out * (weight / idf) + self.bias)

    def probabilities(self, texts: pa.Array) -> Float64Array:
        """The probability of each text to be what was labeled true."""
        return np.asarray(1 / (1 + np.exp(self.slope * self.margins(texts) + self.offset)))

    def save(self, path: Path) -> None:
        """Write the classifier as one safetensors file, no pickle."""
        numbers = {"bias": self.bias, "slope": self.slope, "offset": self.offset}
        about = json.dumps({"format": FORMAT, "params": self.params.model_dump(), "numbers": numbers}, sort_keys=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"weights": self.weights}, path, {ABOUT: about})


def load(path: Path) -> Classifier:
    """A saved classifier. Raises BadInput where the file is none."""
    try:
        with safe_open(path, "numpy") as file:
            about, weights = json.loads((file.metadata() or {}).get(ABOUT, "{}")), file.get_tensor("weights")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} is no classifier file ({error}). Train one first.") from error
    if about.get("format") != FORMAT:
        raise BadInput(f"{path} is no classifier of this version (format {about.get('format')!r}). Train it again.")
    return Classifier(Params(**about["params"]), weights, **about["numbers"])


@lru_cache(4)
def loaded(file: Path) -> Classifier:
    """A saved classifier, read once by this process. Raises BadInput where the file is none."""
    return load(file)


def train(texts: pa.Array, labels: Labels, params: Params) -> tuple[Classifier, Float64Array]:
    """Train on all texts, calibrated on margins by cross-validation, which come back as well. Raises BadInput."""
    if labels.all() or not labels.any():
        raise BadInput("a classifier needs texts of both labels, and all have the same")
    held_out = np.empty(len(labels))
    for fold in stratified(labels, params):
        rest = np.setdiff1d(np.arange(len(labels)), fold)
        held_out[fold] = _fit(texts.take(pa.array(rest)), labels[rest], params).margins(texts.take(pa.array(fold)))
    slope, offset = platt(held_out, labels)
    whole = _fit(texts, labels, params)
    return Classifier(params, whole.weights, whole.bias, slope, offset), held_out


def cross_validated(texts: pa.Array, labels: Labels, params: Params) -> Float64Array:
    """The probability of each text by a classifier that was trained and calibrated on the other folds alone."""
    out = np.empty(len(labels))
    for fold in stratified(labels, params):
        rest = np.setdiff1d(np.arange(len(labels)), fold)
        judge, _ = train(texts.take(pa.array(rest)), labels[rest], params)
        out[fold] = judge.probabilities(texts.take(pa.array(fold)))
    return out


def stratified(labels: Labels, params: Params) -> Sequence[Int64Array]:
    """Folds with the same share of each label, as rows."""
    generator, place = np.random.default_rng(params.seed), np.empty(len(labels), np.int64)
    for label in (False, True):
        rows = generator.permutation(np.flatnonzero(labels == label))
        place[rows] = np.arange(len(rows)) % params.folds
    return [np.flatnonzero(place == fold) for fold in range(params.folds)]


def f1(predicted: Labels, labels: Labels) -> float:
    """The harmonic mean of precision and recall of True."""
    return float(2 * (predicted & labels).sum() / max(predicted.sum() + labels.sum(), 1))


def platt(margins: Float64Array, labels: Labels) -> tuple[float, float]:
    """slope and offset of 1 / (1 + exp(slope * margin + offset)), by Newton's method (Platt 1999)."""
    positive, negative = int(labels.sum()), int((~labels).sum())
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    slope, offset = 0.0, float(np.log((negative + 1) / (positive + 1)))
    for _ in range(100):
        p = 1 / (1 + np.exp(slope * margins + offset))
        error, spread = target - p, np.maximum(p * (1 - p), 1e-12)
        gradient = np.array([(error * margins).sum(), error.sum()])
        cross = (spread * margins).sum()
        hessian = np.array([[(spread * margins**2).sum() + 1e-9, cross], [cross, spread.sum() + 1e-9]])
        step = np.linalg.solve(hessian, gradient)
        slope, offset = slope - float(np.clip(step[0], -5, 5)), offset - float(np.clip(step[1], -5, 5))
        if np.abs(step).max() < 1e-9:
            break
    return slope, offset


def _fit(texts: pa.Array, labels: Labels, params: Params) -> Classifier:
    data, offsets = buffers(texts)
    size = 1 << params.bits
    ends = np.zeros(len(texts) + 1, np.int64)
    capacity = int((offsets[1:] - offsets[:-1]).clip(max=4 * params.max_characters).sum()) * 6 + 1
    features, values = np.empty(capacity, np.int64), np.empty(capacity, np.float32)
    classifier_kernels.extract(
        data, offsets, *classifier_kernels.tables(), params.bits, params.max_characters, features, values, ends
    )
    frequency = np.bincount(features[: ends[-1]], minlength=size)
    idf = (np.log((1 + len(texts)) / (1 + frequency)) + 1).astype(np.float32)
    classifier_kernels.weigh(features, values, ends, idf, params.bits)
    weights, signs = np.zeros(size + 1), np.where(labels, 1.0, -1.0)
    generator, dual = np.random.default_rng(params.seed), np.zeros(len(labels))
    for _ in range(params.epochs):
        order = generator.permutation(len(labels))
        classifier_kernels.descend(features, values, ends, signs, order, params.penalty, weights, dual)
    table = np.stack([idf, weights[:size] * idf], axis=1).astype(np.float32)
    return Classifier(params, table, float(weights[size]))
