"""Identify the language of each document: by script or stop words if they decide, otherwise by CLD2.

Text with Han characters is Chinese, unless Kana, Hangul or Han characters that only Japanese uses outweigh those that
Japanese does not use: a Japanese title does not make a Chinese text Japanese. A text that is mostly Latin and has many
English stop words is English. Both rules use signals that exist already. Only the other documents go to CLD2, the one
step that needs a Python object per document.

What cannot be distinguished by characters is Chinese (zh): Cantonese, and Korean or Japanese in common Han characters
alone, such as names. So do lingua and py3langid (docs/signals.md).
"""

import unicodedata
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.arrays import BoolArray, Float64Array, Int64Array, StringArray
from tasks.curation.signals.columns import Column

UNKNOWN = "und"
CODE = "<U8"  # type of an array of codes
MIN_CJK_SHARE = 0.3  # of letters; Chinese on the web contains Latin names and code
MIN_KANA_SHARE = 0.05  # of letters; Japanese is a tenth Kana even in headlines
MAX_KANA_PER_CHINESE = 4  # per character that Japanese does not use; a long title in a Chinese sentence has about 2
MIN_HANGUL_SHARE = 0.1  # of letters; the particles of Korean in mixed script are Hangul
CHARACTERS_PER_LETTER = 0.32  # Han characters that say as much as one Latin letter: 1.6 per word of 5 letters
MIN_SECOND_SHARE = 0.2  # of the content of a text in two languages
MIN_SHARE_BESIDE_NAMES = 0.35  # of the content of a Chinese text with many Latin names
MIN_MIXED_STOP_WORDS = 2  # distinct English ones in a text that also has Chinese
MIN_LATIN_SHARE = 0.9  # of letters
MIN_STOP_WORDS = 3  # distinct ones, of the eight in Gopher's list
MIN_STOP_WORD_SHARE = 0.02  # of words
CLD2_CHARACTERS = 1000  # more text of one document rarely changes the result


@dataclass(frozen=True, slots=True)
class Identified:
    """The languages of documents, each array [documents].

    codes: ISO 639-1 codes, UNKNOWN if no rule decides; confidence: from 0 to 1; second_share: the share of English in a
    Chinese text or of Chinese in an English one, by content, if it is at least MIN_SECOND_SHARE, otherwise 0.
    """

    codes: StringArray
    confidence: Float64Array
    second_share: Float64Array


def identify(
    texts: pa.Array, rows: Float64Array, stop_word_counts: Int64Array, stop_word_languages: list[str]
) -> Identified:
    """Identify the language of each document.

    rows, stop_word_counts: of `signals.measure_rows`, for lists of stop words in `stop_word_languages`.
    """
    codes, confidence = np.full(len(rows), UNKNOWN, CODE), np.zeros(len(rows))
    cjk = rows[:, Column.han_ratio] + rows[:, Column.kana_ratio] + rows[:, Column.hangul_ratio]
    by_script = cjk >= MIN_CJK_SHARE
    codes[by_script] = _cjk_languages(rows)[by_script]
    confidence[by_script] = np.minimum(1.0, 0.5 + cjk)[by_script]
    chinese_share = _chinese_share(rows)
    is_mixed = (chinese_share > 0) & _has_english(stop_word_counts, stop_word_languages) & (codes != "ja")
    second_share = np.where(is_mixed, np.where(codes == "zh", 1 - chinese_share, chinese_share), 0.0)
    # A text of few Han letters and many Latin ones may still say half of its content in Chinese.
    new = is_mixed & ~by_script
    codes[new] = np.where(chinese_share >= 0.5, "zh", "en")[new]
    confidence[new] = np.maximum(chinese_share, 1 - chinese_share)[new]
    second_share[new] = 1 - confidence[new]
    # Latin letters without an English word are names and code.
    with_names = (codes == UNKNOWN) & (chinese_share >= MIN_SHARE_BESIDE_NAMES)
    codes[with_names], confidence[with_names] = "zh", 0.5 + chinese_share[with_names] / 2
    english = (codes == UNKNOWN) & _is_english(rows, stop_word_counts, stop_word_languages)
    codes[english], confidence[english] = "en", 1.0
    undecided = np.flatnonzero((codes == UNKNOWN) & (rows[:, Column.letter_ratio] > 0))
    starts = pc.utf8_slice_codeunits(texts.take(pa.array(undecided)), 0, CLD2_CHARACTERS)
    guesses = [detect(start) for start in starts.to_pylist()]
    codes[undecided], confidence[undecided] = [code for code, _ in guesses], [share for _, share in guesses]
    return Identified(codes, confidence, second_share)


def _cjk_languages(rows: Float64Array) -> StringArray:
    """Return zh, ja or ko for each document, as if it were one of them."""
    han, kana, hangul = rows[:, Column.han_ratio], rows[:, Column.kana_ratio], rows[:, Column.hangul_ratio]
    chinese = rows[:, Column.chinese_han_ratio]
    is_japanese = (kana >= MIN_KANA_SHARE) & (kana > MAX_KANA_PER_CHINESE * chinese) | (
        rows[:, Column.japanese_han_ratio] > chinese
    )
    is_korean = (hangul > han + kana) | (hangul >= MIN_HANGUL_SHARE) & (hangul > chinese) & (hangul > kana)
    return np.select([is_korean, is_japanese], ["ko", "ja"], "zh")


def _chinese_share(rows: Float64Array) -> Float64Array:
    """Return the share of Chinese in the content of texts in Chinese and another language in Latin letters.

    It is 0 for texts with other scripts, and for those of which one language is less than MIN_SECOND_SHARE.
    """
    han, latin = rows[:, Column.han_ratio], rows[:, Column.latin_ratio]
    share = han / np.maximum(han + CHARACTERS_PER_LETTER * latin, 1e-9)
    is_pair = (han + latin >= MIN_LATIN_SHARE) & (np.minimum(share, 1 - share) >= MIN_SECOND_SHARE)
    return np.where(is_pair, share, 0.0)


def _has_english(stop_word_counts: Int64Array, stop_word_languages: list[str]) -> BoolArray:
    """Return which texts have enough different English stop words to be in English beside another language."""
    if "en" not in stop_word_languages:
        return np.zeros(len(stop_word_counts), np.bool_)
    english = stop_word_counts[:, 0, stop_word_languages.index("en")]
    return np.asarray(english >= MIN_MIXED_STOP_WORDS, np.bool_)


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
