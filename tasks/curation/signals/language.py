"""The language of each document: by script or stop words where they decide, by CLD2 elsewhere.

Han without Kana is Chinese, Kana is Japanese, Hangul is Korean: certain, and free. Of the rest, what is mostly Latin
and full of English stop words is English; only what is left is handed to CLD2, which alone makes Python objects.
"""

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.arrays import BoolArray, Float64Array, Int64Array, StringArray
from tasks.curation.signals.columns import Column

UNKNOWN = "und"
CJK_SHARE = 0.3  # of letters; Chinese on the web carries Latin names and code
KANA_SHARE = 0.05  # Japanese is a tenth Kana even in headlines
ENGLISH_STOP_WORDS = 3  # distinct ones of the eight of Gopher's list
ENGLISH_STOP_SHARE = 0.02
CLD2_CHARACTERS = 1000  # more text of one document changes the answer rarely


def identify(
    texts: pa.Array, rows: Float64Array, stop_found: Int64Array, listed: list[str]
) -> tuple[StringArray, Float64Array]:
    """ISO 639-1 codes ("und" where nobody knows) and confidences, from what the kernels measured."""
    names, confidence = np.full(len(rows), UNKNOWN, dtype="<U8"), np.zeros(len(rows))
    cjk = rows[:, Column.han_ratio] + rows[:, Column.kana_ratio] + rows[:, Column.hangul_ratio]
    by_script = cjk >= CJK_SHARE
    kana = rows[:, Column.kana_ratio] >= KANA_SHARE
    hangul = rows[:, Column.hangul_ratio] > rows[:, Column.han_ratio] + rows[:, Column.kana_ratio]
    names[by_script] = np.select([kana, hangul], ["ja", "ko"], "zh")[by_script]
    confidence[by_script] = np.minimum(1.0, 0.5 + cjk)[by_script]
    english = ~by_script & _english(rows, stop_found, listed)
    names[english], confidence[english] = "en", 1.0
    open_ones = np.flatnonzero((names == UNKNOWN) & (rows[:, Column.letter_ratio] > 0))
    starts = pc.utf8_slice_codeunits(texts.take(pa.array(open_ones)), 0, CLD2_CHARACTERS)
    guesses = [detect(start) for start in starts.to_pylist()]
    names[open_ones], confidence[open_ones] = [code for code, _ in guesses], [share for _, share in guesses]
    return names, confidence


def _english(rows: Float64Array, stop_found: Int64Array, listed: list[str]) -> BoolArray:
    if "en" not in listed:
        return np.zeros(len(rows), np.bool_)
    distinct, total = stop_found[:, 0, listed.index("en")], stop_found[:, 1, listed.index("en")]
    share = total / np.maximum(rows[:, Column.num_content_words], 1)
    latin = rows[:, Column.latin_ratio] > 0.9
    return np.asarray(latin & (distinct >= ENGLISH_STOP_WORDS) & (share >= ENGLISH_STOP_SHARE), np.bool_)


def detect(text: str) -> tuple[str, float]:
    """CLD2's best guess for the beginning of a text, and the share of it that it holds for."""
    import pycld2

    start = text[:CLD2_CHARACTERS]
    try:
        _, _, guesses = pycld2.detect(start, bestEffort=True)
    except pycld2.error:  # it refuses control characters
        start = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in start)
        _, _, guesses = pycld2.detect(start, bestEffort=True)
    _, code, percent, _ = guesses[0]
    return (UNKNOWN, 0.0) if code == "un" else (code.split("-")[0], percent / 100)
