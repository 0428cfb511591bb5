"""Unicode NFC in linear time.

Normalization sorts the marks after a letter by insertion, so that its time grows with the square of their number: a
letter with 200,000 accents takes minutes. No script has more than a few. So a longer run is normalized in pieces of
MAX_MARKS, as the Stream-Safe Text Format (Unicode Standard Annex 15) does with pieces of 30; no character is lost.
"""

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator

MAX_MARKS = 100  # in a row, that are normalized together


def to_nfc(text: str) -> str:
    """Return the text in Unicode NFC; only within pieces of MAX_MARKS where more marks follow each other."""
    long_run, two_marks = _patterns()
    # Every run of 2 * MAX_MARKS contains two neighboring marks of this sample, which is searched faster than the text.
    if two_marks.search(text[::MAX_MARKS]):
        return "".join(map(_normalize, _pieces(text, long_run)))
    return _normalize(text)


def _normalize(text: str) -> str:
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _pieces(text: str, long_run: re.Pattern[str]) -> Iterator[str]:
    """Yield the text in pieces that end after each run of MAX_MARKS marks."""
    begin = 0
    for match in long_run.finditer(text):
        yield text[begin : match.end()]
        begin = match.end()
    yield text[begin:]


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return patterns of MAX_MARKS and of two combining marks in a row."""
    marks = "".join(character for character in map(chr, range(sys.maxunicode + 1)) if unicodedata.combining(character))
    return re.compile(f"[{marks}]{{{MAX_MARKS}}}"), re.compile(f"[{marks}]{{2}}")
