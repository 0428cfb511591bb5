"""NFC: letters with a few marks are composed, and the work grows with the size of the text, whatever it contains."""

import unicodedata

import pytest

from tasks.ingestion import normalization

ACUTE, GRAVE_BELOW, DIAERESIS = "\u0301", "\u0316", "\u0308"


@pytest.mark.parametrize(
    "text", ["", "plain", "中文", "e\u0301", "Å", f"u{DIAERESIS}{ACUTE}", "각", f"a{ACUTE}{GRAVE_BELOW}" * 99]
)
def test_usual_text_is_normalized(text: str) -> None:
    assert normalization.to_nfc(text) == unicodedata.normalize("NFC", text)


def work(text: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of comparisons of insertion sort, at most: the sum of the squares of the runs of marks."""
    total = 0

    def count(_: str, piece: str) -> str:
        nonlocal total
        run = 0
        for character in f"{piece} ":
            run = run + 1 if unicodedata.combining(character) else 0
            total += run
        return piece

    monkeypatch.setattr(unicodedata, "normalize", count)
    monkeypatch.setattr(unicodedata, "is_normalized", lambda *_: False)
    assert normalization.to_nfc(text) == text
    return total


@pytest.mark.parametrize("marks", [ACUTE, ACUTE + GRAVE_BELOW, ACUTE * 77 + "b"])
def test_twice_the_marks_are_at_most_twice_the_work(marks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    once, twice = (work("a" + marks * size, monkeypatch) for size in (2000, 4000))
    assert once < twice < 2.1 * once


def test_no_mark_of_a_long_run_is_lost() -> None:
    text = "a" + (ACUTE + GRAVE_BELOW) * 5000 + "e" + ACUTE
    normalized = normalization.to_nfc(text)
    assert normalized.endswith("é")
    assert unicodedata.normalize("NFD", normalized) == unicodedata.normalize("NFD", text)
