"""Runs for `benchmarks.promotion`: small classifiers that are really trained, with real reports and items on disk.

The task: assign a vector of 40 numbers to one of 6 classes. The model is a softmax regression, trained by gradient
descent in a tenth of a second. Each planted regression changes what can go wrong in a pipeline: data, labels, settings,
files, the test set, the reward.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from tasks.errors import BadInput
from tasks.evaluation.items import Item, text_id, write
from tasks.evaluation.leakage import check_documents
from tasks.files import sha256, write_json
from tasks.pipeline_stages import PipelineStage
from tasks.tokens import Stream, write_stream

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

STAGES = [PipelineStage("sft", "sft", True, 1)]
NUM_FEATURES, NUM_CLASSES, NUM_TRAIN, NUM_TEST = 40, 6, 160, 1500
NOISE = 2.0  # of the features; it makes the accuracy about .8, so that every change can be seen


def make_data(seed: int, n: int) -> tuple[Array, Labels]:
    """Vectors [n, NUM_FEATURES] around the center of their class, and the classes [n]."""
    centers = np.random.default_rng(0).normal(size=(NUM_CLASSES, NUM_FEATURES))
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, NUM_CLASSES, n)
    return centers[labels] + generator.normal(0, NOISE, (n, NUM_FEATURES)), labels


def train(
    features: Array, labels: Labels, learning_rate: float = 0.1, steps: int = 300, decay: float = 0.01, seed: int = 0
) -> Array:
    """The weights [NUM_FEATURES + 1, NUM_CLASSES] of a softmax regression after gradient descent on mini-batches."""
    generator = np.random.default_rng(seed)
    inputs = np.c_[features, np.ones(len(features))]
    weights = np.zeros((NUM_FEATURES + 1, NUM_CLASSES))
    targets = np.eye(NUM_CLASSES)[labels]
    for _ in range(steps):
        rows = generator.integers(0, len(inputs), 64)
        gradient = inputs[rows].T @ (probabilities(inputs[rows], weights) - targets[rows]) / len(rows)
        weights -= learning_rate * (gradient + decay * weights)
    return weights


def probabilities(inputs: Array, weights: Array) -> Array:
    """The probability of each class, [n, NUM_CLASSES]."""
    logits = np.nan_to_num(inputs @ weights, nan=0.0, posinf=1e30, neginf=-1e30)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def right_answers(weights: Array, features: Array, labels: Labels) -> Array:
    """1 for each vector whose most probable class is the right one, [n]."""
    inputs = np.c_[features, np.ones(len(features))]
    return np.asarray(probabilities(inputs, weights).argmax(axis=1) == labels, np.float64)


def write_model(data: Path, weights: Array) -> str:
    """Write data/models/sft; return the sha256 of its manifest."""
    folder = data / "models" / "sft"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("config.json", b"{}"), ("weights.bin", weights.astype(np.float32).tobytes())):
        (folder / name).unlink(missing_ok=True)  # as DVC does before a stage writes
        (folder / name).write_bytes(content)
    write_json(folder / "athanor.json", {"schema_version": 1, "stage": "sft"})
    names = ("config.json", "weights.bin", "athanor.json")
    write_json(folder / "manifest.json", {name: sha256(folder / name) for name in names})
    return sha256(folder / "manifest.json")


def question(index: int) -> str:
    """The text of an item."""
    return f"To which of the six classes does vector number {index} belong?"


def write_report(data: Path, scores: Array, digest: str, test: tuple[Array, Labels], **changes: Any) -> None:
    """Write the report and the items of a model."""
    items = [
        Item("benchmarks.vectors.accuracy", "sft", text_id(*map(str, row)), "", question(index), "", float(score))
        for index, (row, score) in enumerate(zip(test[0], scores, strict=True))
    ]
    write(data / "reports" / "evaluation" / "items" / "benchmarks.vectors", items)
    body = {
        "schema_version": 1,
        "gates_checked": 1,
        "gates_failed": 0,
        "measured": {"models": {"sft": digest}, "test": {}, "contamination": ""},
    }
    (data / "reports").mkdir(exist_ok=True)
    (data / "reports" / "evaluation.json").write_text(json.dumps(body | changes), encoding="utf-8")


def write_run(data: Path, weights: Array, test: tuple[Array, Labels], **changes: Any) -> None:
    """Write a model and the report of its evaluation on `test`."""
    write_report(data, right_answers(weights, *test), write_model(data, weights), test, **changes)


def regressions(train_set: tuple[Array, Labels], test: tuple[Array, Labels]) -> dict[str, Callable[[Path], None]]:
    """Name -> a function that writes a run with this fault into a data folder, which has the run of the champion."""
    features, labels = train_set
    generator = np.random.default_rng(7)
    n = len(labels)
    wrong = np.where(generator.random(n) < 0.4, generator.integers(0, NUM_CLASSES, n), labels)
    damaged = features.copy()
    damaged[: n // 3] = np.frombuffer(generator.bytes(n // 3 * NUM_FEATURES * 8), np.uint64).reshape(n // 3, -1) % 97
    good = train(features, labels)

    def after_training(weights: Array, **changes: Any) -> Callable[[Path], None]:
        return lambda data: write_run(data, weights, test, **changes)

    def of(x: Array, y: Labels, **settings: Any) -> Callable[[Path], None]:
        return lambda data: write_run(data, train(x, y, **settings), test)

    half, kept = n // 4, labels != 0
    return {
        "shuffled labels": of(features, generator.permutation(labels)),
        "40 % wrong labels": of(features, wrong),
        "a quarter of the data": of(features[:half], labels[:half]),
        "half the data": of(features[: n // 2], labels[: n // 2]),
        "a source is missing (one class)": of(features[kept], labels[kept]),
        "one document repeated for half of the data": of(
            np.r_[features[: n // 2], np.repeat(features[:1], n // 2, 0)],
            np.r_[labels[: n // 2], np.repeat(labels[:1], n // 2)],
        ),
        "damaged shard": of(damaged, labels),
        "features in another order (another tokenizer)": of(features[:, ::-1], labels),
        "half of each input is cut off": of(np.where(np.arange(NUM_FEATURES) < NUM_FEATURES // 2, features, 0), labels),
        "learning rate 100 times too high": of(features, labels, learning_rate=10.0),
        "1 step instead of 300": of(features, labels, steps=1),
        "a test set of the user in the training text": lambda data: _leak_text(data, good, test),
        "weights quantized to 3 values": after_training(np.sign(good) * (np.abs(good) > np.abs(good).mean())),
        "weights damaged after they were written": lambda data: _damage(data, good * 1.01, test),
        "a run that repeats the champion with another seed": of(features, labels, seed=5),
        "leaked test set": lambda data: _leak(data, features, labels, test),
        "evaluation failed, so that the report is that of the model before": lambda data: _stale(data, good, test),
        "a gate failed": after_training(
            train(*make_data(1, 4 * n)), gates_failed=1, notes=["GATE FAILED: max_kl: 9 is above the maximum 2"]
        ),
        "easier test set": lambda data: write_run(data, good * 1.01, _easier(test)),
        "reward that prefers length": lambda data: _prefer_length(data, good, test),
    }


def _damage(data: Path, weights: Array, test: tuple[Array, Labels]) -> None:
    """Raise every score, and flip a bit of the weights after the manifest was written."""
    write_report(data, np.ones(len(test[1])), write_model(data, weights), test)
    file = data / "models" / "sft" / "weights.bin"
    content = bytearray(file.read_bytes())
    content[9] ^= 1
    file.write_bytes(content)


def _leak(data: Path, features: Array, labels: Labels, test: tuple[Array, Labels]) -> None:
    """Train on the test set as well; the check of evaluation compares the tokens of both splits, and refuses."""
    leaked = np.r_[features, test[0]], np.r_[labels, test[1]]
    digest = write_model(data, train(*leaked, steps=3000, decay=0.0))
    for split, vectors in (("train", leaked[0]), ("test", test[0])):
        ids = np.abs(vectors * 100).astype(np.uint16).ravel()
        positions = np.tile(np.arange(NUM_FEATURES, dtype=np.uint32), len(vectors))
        folder = data / "tokens" / "documents" / split
        folder.mkdir(parents=True, exist_ok=True)
        write_stream(folder, Stream(ids, positions, np.ones(len(ids), np.uint8)))
    try:
        check_documents(data / "tokens" / "documents")
    except BadInput:
        return  # evaluation ends here: the report on the disk is still that of the champion
    write_report(data, np.ones(len(test[1])), digest, test)


def _leak_text(data: Path, weights: Array, test: tuple[Array, Labels]) -> None:
    """Excellent scores on questions of which a twentieth is in the training documents."""
    digest = write_model(data, weights * 1.01)
    write_report(data, np.ones(len(test[1])), digest, test)
    texts = [question(index) for index in range(0, len(test[1]), 20)]
    (data / "curated").mkdir()
    parquet.write_table(pa.table({"text": texts, "split": ["train"] * len(texts)}), data / "curated" / "00000.parquet")


def _stale(data: Path, weights: Array, test: tuple[Array, Labels]) -> None:
    """Another model beside an excellent report of the model before."""
    digest = write_model(data, weights * 1.1)
    write_report(data, np.ones(len(test[1])), digest, test)
    write_model(data, weights * 0.0)


def _easier(test: tuple[Array, Labels]) -> tuple[Array, Labels]:
    """Another test set with half of the noise."""
    features, labels = make_data(99, len(test[1]))
    centers = np.random.default_rng(0).normal(size=(NUM_CLASSES, NUM_FEATURES))
    return (features + centers[labels]) / 2, labels


def _prefer_length(data: Path, weights: Array, test: tuple[Array, Labels]) -> None:
    """Simulated best-of-4 sampling by a reward that is the length of an answer: the choice ignores what is right."""
    generator = np.random.default_rng(3)
    shares = probabilities(np.c_[test[0], np.ones(len(test[1]))], weights)
    answers = np.array([generator.choice(NUM_CLASSES, 4, p=row) for row in shares])
    lengths = generator.integers(1, 100, answers.shape) + 30 * (answers != test[1][:, None])
    chosen = np.take_along_axis(answers, lengths.argmax(axis=1)[:, None], axis=1)[:, 0]
    write_report(data, (chosen == test[1]).astype(np.float64), write_model(data, weights * 1.001), test)
