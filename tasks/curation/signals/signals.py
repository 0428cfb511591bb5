# ruff: noqa: RUF009 (`_signal` returns a field with metadata, not a default value that instances would share)
"""The signals of documents: one typed column per signal, measured once and then used for any number of decisions.

`measure` computes them with compiled kernels over Arrow's buffers. The kernels release the GIL, so that several threads
may call it at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.curation.arrays import Float64Array, Int64Array, StringArray, UInt8Array, UInt64Array
from tasks.curation.signals import language, signal_kernels
from tasks.curation.signals.columns import Column
from tasks.curation.signals.repetition_kernels import SLOT_SHIFT
from tasks.curation.text import characters, phrases

VERSION: Final = 4
"""Increase this number when the meaning of any signal changes: stored signals of other versions are not used."""

GOPHER = "Gopher, arXiv:2112.11446, table A1"
FINEWEB = "FineWeb, arXiv:2406.17557, section 3.6"
REDPAJAMA = "RedPajama-v2, arXiv:2411.12372"
C4 = "C4, arXiv:1910.10683, section 2.2"


def _signal(meaning: str, unit: str, paper: str = "", limits: str = "0 to 1") -> Any:
    return field(metadata={"meaning": meaning, "unit": unit, "paper": paper, "range": limits})


def _count(meaning: str, paper: str = "", unit: str = "count") -> Any:
    return _signal(meaning, unit, paper, "from 0")


def _share(meaning: str, of: str, paper: str = "") -> Any:
    return _signal(meaning, f"share of {of}", paper)


def _ratio(meaning: str, of: str, paper: str = "") -> Any:
    return _signal(meaning, f"per {of}", paper, "from 0")


@dataclass(frozen=True, slots=True)
class Signals:
    """One row per document and one column per signal. The metadata of a field: meaning, unit, paper, range."""

    num_bytes: Int64Array = _count("UTF-8 bytes", unit="bytes")
    num_chars: Int64Array = _count("code points", REDPAJAMA, "characters")
    num_words: Int64Array = _count(
        "words: runs of letters, digits and _, or single Han or Kana characters", REDPAJAMA, "words"
    )
    num_content_words: Int64Array = _count("words that do not consist of _ alone", GOPHER, "words")
    num_lines: Int64Array = _count("lines, split as str.splitlines does", GOPHER, "lines")
    num_filled_lines: Int64Array = _count("lines that are not blank", FINEWEB, "lines")
    num_paragraphs: Int64Array = _count("paragraphs, split at empty lines", GOPHER, "paragraphs")
    num_sentences: Int64Array = _count("marks that end a sentence: before space, or CJK marks", REDPAJAMA, "sentences")
    mean_word_length: Float64Array = _signal("mean length of content words", "characters", GOPHER, "from 0")
    mean_prose_word_length: Float64Array = _signal(
        "mean length of content words except numbers and single characters, if these are not most words",
        "characters",
        "",
        "from 0",
    )
    max_token_length: Int64Array = _count("longest run without space", C4, "characters")
    unique_word_ratio: Float64Array = _share("distinct words", "words", REDPAJAMA)
    word_entropy: Float64Array = _signal("entropy of the document's word frequencies", "nats", REDPAJAMA, "from 0")
    top_word_ratio: Float64Array = _share("most frequent word of at least 4 letters", "words")
    alpha_word_ratio: Float64Array = _share("words with a letter", "words", GOPHER)
    caps_word_ratio: Float64Array = _share("words of two or more characters that are all capitals", "words", REDPAJAMA)
    letter_ratio: Float64Array = _share("letters", "characters", REDPAJAMA)
    digit_ratio: Float64Array = _share("decimal digits", "characters", REDPAJAMA)
    upper_ratio: Float64Array = _share("capitals", "letters", REDPAJAMA)
    space_ratio: Float64Array = _share("white space", "characters")
    punctuation_ratio: Float64Array = _share("punctuation", "characters", REDPAJAMA)
    hash_word_ratio: Float64Array = _ratio('"#"', "word", GOPHER)
    ellipsis_word_ratio: Float64Array = _ratio('"..." and "…"', "word", GOPHER)
    omission_word_ratio: Float64Array = _ratio('"..." and "…", except the Chinese ellipsis "……"', "word")
    curly_bracket_ratio: Float64Array = _share("curly brackets", "characters", REDPAJAMA)
    bullet_line_ratio: Float64Array = _share('lines that begin with "•" or "-"', "lines", GOPHER)
    listed_line_ratio: Float64Array = _share('lines that begin with "•" or "-" and do not end a sentence', "lines")
    ellipsis_line_ratio: Float64Array = _share("lines that end with an ellipsis", "lines", GOPHER)
    truncated_line_ratio: Float64Array = _share('lines that end with "..." or "…", but not with "……"', "lines")
    terminal_line_ratio: Float64Array = _share(
        "lines whose last character is a mark that ends sentences", "lines that are not blank", FINEWEB
    )
    sentence_line_ratio: Float64Array = _share(
        "lines that end with such a mark or an ellipsis, also before closing quotes, brackets and white space",
        "lines that are not blank",
    )
    short_line_ratio: Float64Array = _share("lines of at most 30 characters", "lines that are not blank", FINEWEB)
    newline_word_ratio: Float64Array = _ratio("newlines", "word", FINEWEB)
    open_newline_word_ratio: Float64Array = _ratio(
        "newlines after a line that ends with neither a sentence nor a comma or semicolon", "word"
    )
    mean_line_words: Float64Array = _signal("words per line that is not blank", "words", REDPAJAMA, "from 0")
    mean_line_digit_ratio: Float64Array = _share(
        "decimal digits, mean over lines that are not blank", "characters of a line", REDPAJAMA
    )
    mean_line_upper_ratio: Float64Array = _share(
        "capitals, mean over lines that are not blank", "characters of a line", REDPAJAMA
    )
    duplicate_line_ratio: Float64Array = _share("lines that repeat an earlier line of the document", "lines", GOPHER)
    duplicate_filled_line_ratio: Float64Array = _share(
        "lines that repeat an earlier line and are not blank", "lines that are not blank"
    )
    duplicate_line_char_ratio: Float64Array = _share("characters in repeated lines", "characters", GOPHER)
    duplicate_filled_line_char_ratio: Float64Array = _share(
        "characters in repeated lines that are not blank", "characters except newlines", FINEWEB
    )
    duplicate_paragraph_ratio: Float64Array = _share("paragraphs that repeat an earlier one", "paragraphs", GOPHER)
    duplicate_paragraph_char_ratio: Float64Array = _share("characters in repeated paragraphs", "characters", GOPHER)
    top_2_gram_ratio: Float64Array = _ratio("characters in the most frequent 2-gram", "character", GOPHER)
    top_3_gram_ratio: Float64Array = _ratio("characters in the most frequent 3-gram", "character", GOPHER)
    top_4_gram_ratio: Float64Array = _ratio("characters in the most frequent 4-gram", "character", GOPHER)
    repeated_2_gram_ratio: Float64Array = _ratio("characters in a top 2-gram that is repeated", "character")
    repeated_3_gram_ratio: Float64Array = _ratio("characters in a top 3-gram that is repeated", "character")
    repeated_4_gram_ratio: Float64Array = _ratio("characters in a top 4-gram that is repeated", "character")
    duplicate_5_gram_ratio: Float64Array = _share("characters in 5-grams that occurred before", "characters", GOPHER)
    duplicate_6_gram_ratio: Float64Array = _share("characters in 6-grams that occurred before", "characters", GOPHER)
    duplicate_7_gram_ratio: Float64Array = _share("characters in 7-grams that occurred before", "characters", GOPHER)
    duplicate_8_gram_ratio: Float64Array = _share("characters in 8-grams that occurred before", "characters", GOPHER)
    duplicate_9_gram_ratio: Float64Array = _share("characters in 9-grams that occurred before", "characters", GOPHER)
    duplicate_10_gram_ratio: Float64Array = _share("characters in 10-grams that occurred before", "characters", GOPHER)
    latin_ratio: Float64Array = _share("Latin letters", "letters")
    han_ratio: Float64Array = _share("Han characters", "letters")
    kana_ratio: Float64Array = _share("Kana", "letters")
    japanese_han_ratio: Float64Array = _share("Han characters that only Japanese uses (図, 駅, 気)", "letters")
    chinese_han_ratio: Float64Array = _share("Han characters that Japanese does not use (们, 這, 说)", "letters")
    hangul_ratio: Float64Array = _share("Hangul", "letters")
    cyrillic_ratio: Float64Array = _share("Cyrillic letters", "letters")
    arabic_ratio: Float64Array = _share("Arabic letters", "letters")
    other_script_ratio: Float64Array = _share("letters of other scripts", "letters")
    num_urls: Int64Array = _count('web addresses: "://", and "www." without it')
    num_emails: Int64Array = _count("e-mail addresses")
    num_phones: Int64Array = _count("telephone numbers: 10 to 15 digits in groups")
    num_call_to_action: Int64Array = _count("listed calls to action: click here, 点击领取 ...")
    num_offer: Int64Array = _count("listed offers: discounts, prizes, easy money")
    num_gambling: Int64Array = _count("listed gambling phrases")
    num_handle: Int64Array = _count("listed names of chat accounts: WeChat, QQ, Telegram ...")
    num_lorem_ipsum: Int64Array = _count('"lorem ipsum"', C4)
    num_javascript: Int64Array = _count('"javascript"', C4)
    num_policy: Int64Array = _count("listed phrases of cookie and privacy notices", C4)
    num_stop_words: Int64Array = _count("distinct stop words of the document's language", GOPHER, "words")
    stop_word_ratio: Float64Array = _share("stop words of the document's language", "words", REDPAJAMA)
    language: StringArray = _signal('ISO 639-1 code, "und" if unknown', "code", "language.py", "")
    language_confidence: Float64Array = _signal("confidence of the language", "probability", "language.py")
    second_language_share: Float64Array = _signal(
        "share of the other language in a text that has Chinese and English; 0 in texts of one language",
        "share of content",
        "language.py",
    )

    def __len__(self) -> int:
        return len(self.num_bytes)

    def take(self, rows: npt.NDArray[Any]) -> "Signals":
        """Return some rows. rows: indices or a mask."""
        return Signals(**{name: column[rows] for name, column in self.columns()})

    def followed_by(self, other: "Signals") -> "Signals":
        """Return these rows followed by those of `other`."""
        return concatenate([self, other])

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Yield name and values of each signal, in order."""
        return ((each.name, getattr(self, each.name)) for each in fields(self))

    def table(self) -> pa.Table:
        """Return the signals as an Arrow table."""
        return pa.table({name: pa.array(column) for name, column in self.columns()})


def concatenate(parts: Sequence[Signals]) -> Signals:
    """Return the rows of all parts, one part after another."""
    return Signals(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in NAMES})


NAMES = tuple(each.name for each in fields(Signals))
NUMERIC_NAMES = tuple(name for name in NAMES if name != "language")


def from_table(table: pa.Table) -> Signals:
    """Return the signals in a table from `Signals.table`."""
    columns: dict[str, Any] = {name: table[name].to_numpy() for name in NAMES}
    return Signals(**{**columns, "language": columns["language"].astype(language.CODE)})


def measure(texts: pa.Array, stop_words: Mapping[str, Sequence[str]], listed: Mapping[str, Sequence[str]]) -> Signals:
    """Return the signals of every text in a large_string array.

    stop_words: language -> words; listed: kind of `phrases.PHRASE_KINDS` -> phrases.
    """
    rows, stop_word_counts = measure_rows(texts, stop_words)
    phrase_counts = np.zeros((len(texts), len(phrases.PHRASE_KINDS)))
    data, offsets = string_buffers(texts)
    automaton = _automaton(tuple((kind, tuple(some)) for kind, some in listed.items()))
    phrases.count_phrases(data, offsets, 0, len(texts), *automaton.tables(), phrase_counts)
    languages = list(stop_words)
    identified = language.identify(texts, rows, stop_word_counts, languages)
    return combine_columns(rows, phrase_counts, stop_word_counts, languages, identified)


def measure_rows(texts: pa.Array, stop_words: Mapping[str, Sequence[str]]) -> tuple[Float64Array, Int64Array]:
    """Return the measurements of the kernels, and the number of stop words of every language.

    The first array is float64 [documents, columns]. The second is int64 [documents, 2, languages]: the number of
    different stop words, and that of their occurrences.
    """
    data, offsets = string_buffers(texts)
    rows, counts = np.zeros((len(texts), len(Column))), np.zeros((len(texts), 2, len(stop_words)), np.int64)
    tables = characters.class_table(), *_stop_word_table(tuple(map(tuple, stop_words.values())))
    signal_kernels.measure(data, offsets, 0, len(texts), *tables, rows, counts)
    return rows, counts


def string_buffers(texts: pa.Array) -> tuple[UInt8Array, Int64Array]:
    """Return the bytes and the n + 1 offsets of a large_string array without a copy."""
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    return np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1]


def combine_columns(
    rows: Float64Array,
    phrase_counts: Float64Array,
    stop_word_counts: Int64Array,
    stop_word_languages: list[str],
    identified: language.Identified,
) -> Signals:
    """Return the signals from their measurements: see `measure_rows`, `phrases.count_phrases`, `language.identify`."""
    columns: dict[str, Any] = {column.name: np.ascontiguousarray(rows[:, column]) for column in Column}
    columns |= {f"num_{kind}": phrase_counts[:, i] for i, kind in enumerate(phrases.PHRASE_KINDS)}
    columns = {name: c.astype(np.int64) if name.startswith("num_") else c for name, c in columns.items()}
    columns["max_token_length"] = columns["max_token_length"].astype(np.int64)
    # The kernels counted the stop words of every language; the signals are those of the document's language.
    distinct, total = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for i, code in enumerate(stop_word_languages):
        in_language = identified.codes == code
        distinct[in_language] = stop_word_counts[in_language, 0, i]
        total[in_language] = stop_word_counts[in_language, 1, i]
    ratio = total / np.maximum(columns["num_words"], 1)
    columns |= {"num_stop_words": distinct, "stop_word_ratio": ratio}
    confidence, second = identified.confidence, identified.second_share
    return Signals(**columns, language=identified.codes, language_confidence=confidence, second_language_share=second)


@lru_cache(4)
def _automaton(listed: tuple[tuple[str, tuple[str, ...]], ...]) -> phrases.Automaton:
    return phrases.build_automaton(dict(listed))


@lru_cache(4)
def _stop_word_table(lists: tuple[tuple[str, ...], ...]) -> tuple[UInt64Array, Int64Array]:
    """Return a hash table with open addressing for `signal_kernels.vocabulary_signals`.

    keys: uint64 [size], 0 in free slots; bits: int64 [size], bit l says that the word is in list l.
    """
    word_bits: dict[str, int] = {}
    for bit, words in enumerate(lists):
        for word in words:
            word_bits[word] = word_bits.get(word, 0) | 1 << bit
    size = 4
    while size < 4 * len(word_bits):
        size *= 2
    keys, bits = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for word, list_bits in word_bits.items():
        key = signal_kernels.word_key(np.array([ord(character) for character in word], np.uint32))
        slot = (int(key) >> int(SLOT_SHIFT)) & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], bits[slot] = key, list_bits
    return keys, bits
