"""Every signal against plain Python, on unusual random texts, and some counted by hand."""

import dataclasses
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation.signals import signals
from tasks.curation.signals.columns import Column
from tests.curation import reference

STOP_WORDS = {"en": ("the", "of", "and", "to"), "zh": ("的", "是")}
PHRASES = {"offer": ("free gift", "优惠券"), "gambling": ("casino",), "lorem_ipsum": ("lorem ipsum",)}
ATOMS = [
    "a",
    "b",
    "ab",
    "bc",
    "c",
    "the",
    "of",
    "Zürich",
    "e\u0301",
    "__",
    "x_1",
    "42",
    "٣",
    "中",
    "文",
    "の",
    "ｘ",
    "𠀀",
]
GLUE = [
    " ",
    " ",
    " ",
    "",
    "\n",
    "\n\n",
    "\n \n",
    "\t",
    "\r\n",
    "\u2028",
    "\u3000",
    ". ",
    "...",
    "…",
    "#",
    "- ",
    "•",
    "。",
    "{",
    "\ufe0f",
]


def measure(*texts: str) -> signals.Signals:
    return signals.measure(pa.array(texts, pa.large_string()), STOP_WORDS, PHRASES)


def unusual_text(seed: int) -> str:
    dice = random.Random(seed)
    atoms = dice.sample(ATOMS, dice.randint(1, 6))
    return "".join(dice.choice(atoms) + dice.choice(GLUE) for _ in range(dice.choice([1, 3, 12, 60, 200])))


def test_every_signal_equals_the_reference_in_plain_python() -> None:
    texts = [unusual_text(seed) for seed in range(400)] + [
        "\n",
        "\n\n",
        " ",
        "\r\n",
        "-",
        "a",
        "\n\na\n\n\na\n",
        "x" * 3000,
    ]
    measured = measure(*texts)
    for row, text in enumerate(texts):
        expected = reference.signals(text)
        values = {name: float(getattr(measured, name)[row]) for name in expected}
        assert values == pytest.approx(expected, abs=1e-12), repr(text)


def test_equal_however_the_words_are_cut() -> None:
    """ "ab c d e f" and "a bc d e f" are one 5-gram written without spaces: 6 characters seen before, of 21."""
    assert measure("ab c d e f a bc d e f").duplicate_5_gram_ratio[0] == pytest.approx(6 / 21)


def test_the_top_n_gram_is_the_first_of_the_most_frequent() -> None:
    """2-grams "x yy", "yy x" and "x yy" again: "x yy" twice, 4 characters each, of 9."""
    assert measure("x yy x yy").top_2_gram_ratio[0] == pytest.approx(8 / 9)


def test_columns_and_fields_are_the_same() -> None:
    assert set(Column.__members__) <= set(signals.NAMES)


def test_the_page_on_signals_names_signals_that_there_are() -> None:
    page = Path("docs/signals.md").read_text(encoding="utf-8").partition("| RedPajama-v2")[2].partition("\n\n")[0]
    names = {name for name in re.findall(r"`(\w+)`", page) if "_" in name}
    assert len(names) > 25
    assert names - set(signals.NAMES) == {"quality_model", "word_files", "domain_files", "duplicate_of", "cluster_size"}


def test_every_signal_says_what_it_means() -> None:
    for each in dataclasses.fields(signals.Signals):
        assert each.metadata["meaning"]
        assert each.metadata["unit"]
        assert each.metadata["range"] or each.name == "language"


def test_nothing_is_said_of_an_empty_text() -> None:
    empty = measure("").take(np.array([0]))
    assert {name: column[0] for name, column in empty.columns() if column[0]} == {"language": "und"}


def test_links_addresses_and_numbers() -> None:
    text = "see http://a.b and www.c.d (not http://www.e.f twice), me@x.org, @home, "
    measured = measure(text + "138-1234-5678, +1 (555) 123-4567, 2024-01-02")
    assert (measured.num_urls[0], measured.num_emails[0], measured.num_phones[0]) == (3, 1, 2)


def test_phrases_are_found_as_words_in_any_case_and_spacing() -> None:
    measured = measure("FREE\n gift, a freegift, casinos, Casino! 领优惠券吧")
    assert (measured.num_offer[0], measured.num_gambling[0]) == (1, 1)
    measured = measure("FREE gift, casino casino 优惠券")
    assert (measured.num_offer[0], measured.num_gambling[0]) == (2, 2)


def test_stop_words_are_those_of_the_language() -> None:
    measured = measure("the cat and the dog and the house of the man went to the sea", "这是我的书，那是你的书，的")
    assert measured.language.tolist() == ["en", "zh"]
    assert measured.num_stop_words.tolist() == [4, 2]
    assert measured.stop_word_ratio.tolist() == pytest.approx([9 / 15, 5 / 11])


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("これは日本語の文章です。漢字とかなが混ざっています。", "ja"),
        ("이것은 한국어 문장입니다. 아주 짧습니다.", "ko"),
        ("Dies ist ein deutscher Satz, der von niemandem gelesen wird.", "de"),
        ("Привет, это предложение на русском языке.", "ru"),
        ("12345 67890", "und"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert measure(text).language[0] == language


def test_slices_change_nothing() -> None:
    texts = pa.array([unusual_text(seed) for seed in range(200)], pa.large_string())
    whole = signals.measure(texts, STOP_WORDS, PHRASES).table()
    part = signals.measure(texts.slice(50, 70), STOP_WORDS, PHRASES).table()
    assert whole.slice(50, 70).equals(part)
    assert signals.from_table(whole).table().equals(whole)
