"""Identify the language of each document: by script or stop words if they decide, otherwise by CLD2.

Han characters without Kana are Chinese, Kana is Japanese, and Hangul is Korean. A text that is mostly Latin and has
many English stop words is English. Both rules use signals that exist already. Only the other documents go to CLD2, the
one step that needs a Python object per document.
"""

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.arrays import BoolArray, Float64Array, Int64Array, StringArray
from tasks.curation.signals.columns import Column

UNKNOWN = "und"
MIN_CJK_SHARE = 0.3  # of letters; Chinese on the web contains Latin names and code
MIN_KANA_SHARE = 0.05  # of letters; Japanese is a tenth Kana even in headlines
MIN_LATIN_SHARE = 0.9  # of letters
MIN_STOP_WORDS = 3  # distinct ones, of the eight in Gopher's list
MIN_STOP_WORD_SHARE = 0.02  # of words
CLD2_CHARACTERS = 1000  # more text of one document rarely changes the result


def identify(
    texts: pa.Array, rows: Float64Array, stop_word_counts: Int64Array, stop_word_languages: list[str]
) -> tuple[StringArray, Float64Array]:
    """Return ISO 639-1 codes (UNKNOWN if no rule decides) and confidences from 0 to 1, each [documents].

    rows, stop_word_counts: of `signals.measure_rows`, for lists of stop words in `stop_word_languages`.
    """
    codes, confidence = np.full(len(rows), UNKNOWN, dtype="<U8"), np.zeros(len(rows))
    cjk = rows[:, Column.han_ratio] + rows[:, Column.kana_ratio] + rows[:, Column.hangul_ratio]
    by_script = cjk >= MIN_CJK_SHARE
    is_japanese = rows[:, Column.kana_ratio] >= MIN_KANA_SHARE
    is_korean = rows[:, Column.hangul_ratio] > rows[:, Column.han_ratio] + rows[:, Column.kana_ratio]
    codes[by_script] = np.select([is_japanese, is_korean], ["ja", "ko"], "zh")[by_script]
    confidence[by_script] = np.minimum(1.0, 0.5 + cjk)[by_script]
    english = ~by_script & _is_english(rows, stop_word_counts, stop_word_languages)
    codes[english], confidence[english] = "en", 1.0
    undecided = np.flatnonzero((codes == UNKNOWN) & (rows[:, Column.letter_ratio] > 0))
    starts = pc.utf8_slice_codeunits(texts.take(pa.array(undecided)), 0, CLD2_CHARACTERS)
    guesses = [detect(start) for start in starts.to_pylist()]
    codes[undecided], confidence[undecided] = [code for code, _ in guesses], [share for _, share in guesses]
    return codes, confidence


def _is_english(rows: Float64Array, stop_word_counts: Int64Array, stop_word_languages: list[str]) -> BoolArray:
    """Return where the text is mostly Latin and has enough different, and enough frequent, English stop words."""
    if "en" not in stop_word_languages:
        return np.zeros(len(rows), np.bool_)
    english = stop_word_languages.index("en")
    distinct, total = stop_word_counts[:, 0, english], stop_word_counts[:, 1, english]
    share = total / np.maximum(rows[:, Column.num_content_words], 1)
    is_latin = rows[:, Column.latin_ratio] > MIN_LATIN_SHARE
    return np.asarray(is_latin & (distinct >= MIN_STOP_WORDS) & (share >= MIN_STOP_WORD_SHARE), np.bool_)


def detect(text: str) -> tuple[str, float]:
    """Return CLD2's best guess for the beginning of a text, and the share of it that this language covers."""
    import pycld2

    start = text[:CLD2_CHARACTERS]
    try:
        _, _, guesses = pycld2.detect(start, bestEffort=True)
    except pycld2.error:  # CLD2 refuses control characters
        start = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in start)
        _, _, guesses = pycld2.detect(start, bestEffort=True)
    _, code, percent, _ = guesses[0]
    return (UNKNOWN, 0.0) if code == "un" else (code.split("-")[0], percent / 100)
