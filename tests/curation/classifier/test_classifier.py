"""The hashed linear classifier: it learns, its probabilities are calibrated, and saving does not change it."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation.classifier import classifier
from tasks.errors import BadInput

PARAMS = classifier.Params(bits=14)


def messages(seed: int, number: int = 200) -> tuple[pa.Array, classifier.Labels]:
    """Return texts and labels: every second text offers a prize, and all other words are random."""
    rng = random.Random(seed)
    plain, offer = ["lunch", "home", "today", "会议", "明天"], ["prize", "WIN", "领奖"]
    labels = np.arange(number) % 2 == 0
    texts = [" ".join(rng.choices(plain, k=8) + ([rng.choice(offer)] if spam else [])) for spam in labels]
    return pa.array(texts, pa.large_string()), labels


def test_it_learns_and_knows_how_sure_it_is() -> None:
    texts, labels = messages(0)
    trained, _ = classifier.train(texts, labels, PARAMS)
    unseen, truth = messages(1)
    probabilities = trained.probabilities(unseen)
    assert classifier.f1(probabilities > 0.5, truth) == 1.0
    assert probabilities[truth].min() > 0.8 > 0.1 > probabilities[~truth].max()


def test_the_same_from_disk_and_in_any_slice(tmp_path: Path) -> None:
    texts, labels = messages(0)
    trained, _ = classifier.train(texts, labels, PARAMS)
    trained.save(tmp_path / "spam.safetensors")
    loaded = classifier.load(tmp_path / "spam.safetensors")
    assert loaded.params == PARAMS
    assert np.array_equal(loaded.probabilities(texts), trained.probabilities(texts))
    assert np.array_equal(loaded.probabilities(texts.slice(7, 20)), trained.probabilities(texts)[7:27])
    other, _ = classifier.train(texts, labels, PARAMS)
    other.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "spam.safetensors").read_bytes()


def test_digits_and_space_are_normalized_and_the_end_is_not_read() -> None:
    texts, labels = messages(0)
    trained, _ = classifier.train(texts, labels, classifier.Params(bits=14, max_characters=20))
    a, b, c, d = trained.margins(
        pa.array(["call 123", "call \n 987", "x" * 20, "x" * 20 + " WIN prize"], pa.large_string())
    )
    assert a == b
    assert c == d


def test_disguises_width_script_and_long_runs_are_folded() -> None:
    """Each row has equal features: symbols between Han characters, traditional ones, width, repeated letters."""
    texts, labels = messages(0)
    trained, _ = classifier.train(texts, labels, classifier.Params(bits=14, shape=1.0))
    for row in (
        ("代开发票", "代 开*发.票", "代開發票"),
        ("free prize", "ｆｒｅｅ　ｐｒｉｚｅ"),
        ("plzzz", "plzzzzzzzz"),
    ):
        margins = trained.margins(pa.array(row, pa.large_string()))
        assert np.array_equal(margins, np.full(len(row), margins[0])), row


def test_the_shape_of_a_text_is_a_feature() -> None:
    """Case is folded in n-grams, so that only the shape distinguishes these labels."""
    words = [" ".join(random.Random(row).choices(["boat", "house", "sea", "tide"], k=5)) for row in range(80)]
    labels = np.arange(80) % 2 == 0
    texts = pa.array([text.upper() if spam else text for text, spam in zip(words, labels, strict=True)])
    unseen = pa.array(["THE SEA AND THE HOUSE", "the sea and the house"], pa.large_string())
    for shape in (1.0, 0.0):
        trained, _ = classifier.train(texts.cast(pa.large_string()), labels, classifier.Params(bits=14, shape=shape))
        high, low = trained.margins(unseen)
        assert (high > 0 > low) == (shape > 0)
        assert (high == low) == (shape == 0)


def test_platt_of_margins_that_say_nothing_is_the_share_of_the_label() -> None:
    slope, offset = classifier.fit_sigmoid(np.zeros(400), np.arange(400) % 4 == 0)
    assert 1 / (1 + np.exp(offset)) == pytest.approx(0.25, abs=0.01)
    assert slope == pytest.approx(0, abs=1e-6)


def test_what_is_no_classifier(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no")
    with pytest.raises(BadInput, match="not a classifier file"):
        classifier.load(tmp_path / "x")
    with pytest.raises(BadInput, match="both labels"):
        classifier.train(*((texts := messages(0)[0]), np.ones(len(texts), np.bool_)), PARAMS)


def test_equal_texts_are_in_one_fold() -> None:
    """Copies differ in digits, case, width, punctuation and script only; each of the two labels has 4 groups of 3."""
    copies = ["{} Call 123!", "{} CALL 9 87", "{}\u3000ｃａｌｌ。"]
    names = ["a", "b", "c", "d", "買", "e", "f", "g"]
    texts = pa.array([copy.format(name) for name in names for copy in copies], pa.large_string())
    groups = classifier.text_groups(texts)
    assert groups.tolist() == [number for number in range(8) for _ in range(3)]
    assert classifier.text_groups(pa.array(["買", "买", "卖"])).tolist() == [0, 0, 1]
    labels = np.arange(24) < 12
    folds = classifier.stratified_folds(labels, classifier.Params(folds=4), groups)
    assert sorted(len(set(groups[fold].tolist())) for fold in folds) == [2, 2, 2, 2]
    assert sorted(np.concatenate(folds).tolist()) == list(range(24))
    with pytest.raises(BadInput, match="Only 4 different texts"):
        classifier.stratified_folds(labels, classifier.Params(folds=5), groups)
