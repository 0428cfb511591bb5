# ruff: noqa: RUF009 (a field that carries its meaning is not a shared default)
"""What is measured about every document: one typed column per signal, computed once, decided upon often.

`measure` fills them by compiled kernels over the Arrow buffers, in as many threads as asked.
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
from tasks.curation.text import characters, phrases

VERSION: Final = 3
"""Raise when any signal changes its meaning: stored signals of another version are measured again."""


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
    """One row per document, one column per signal; each field's metadata: meaning, unit, paper, range."""

    num_bytes: Int64Array = _count("UTF-8 bytes", unit="bytes")
    num_chars: Int64Array = _count("code points", REDPAJAMA, "characters")
    num_words: Int64Array = _count("words: runs of letters, digits and _, or single Han or Kana", REDPAJAMA, "words")
    num_content_words: Int64Array = _count("words that are more than _", GOPHER, "words")
    num_lines: Int64Array = _count("lines, cut as str.splitlines does", GOPHER, "lines")
    num_paragraphs: Int64Array = _count("paragraphs, cut at blank lines", GOPHER, "paragraphs")
    num_sentences: Int64Array = _count("marks that end a sentence, before space or in CJK", REDPAJAMA, "sentences")
    mean_word_length: Float64Array = _signal("mean length of content words", "characters", GOPHER, "from 0")
    max_token_length: Int64Array = _count("longest run without space", C4, "characters")
    unique_word_ratio: Float64Array = _share("distinct words", "words", REDPAJAMA)
    word_entropy: Float64Array = _signal("entropy of the document's word frequencies", "nats", REDPAJAMA, "from 0")
    top_word_ratio: Float64Array = _share("most frequent word of at least 4 letters", "words")
    alpha_word_ratio: Float64Array = _share("words with a letter", "words", GOPHER)
    caps_word_ratio: Float64Array = _share("words of two or more capitals only", "words", REDPAJAMA)
    letter_ratio: Float64Array = _share("letters", "characters", REDPAJAMA)
    digit_ratio: Float64Array = _share("decimal digits", "characters", REDPAJAMA)
    upper_ratio: Float64Array = _share("capitals", "letters", REDPAJAMA)
    space_ratio: Float64Array = _share("white space", "characters")
    punctuation_ratio: Float64Array = _share("punctuation", "characters", REDPAJAMA)
    hash_word_ratio: Float64Array = _ratio('"#"', "word", GOPHER)
    ellipsis_word_ratio: Float64Array = _ratio('"..." and "…"', "word", GOPHER)
    curly_bracket_ratio: Float64Array = _share("curly brackets", "characters", REDPAJAMA)
    bullet_line_ratio: Float64Array = _share('lines that begin with "•" or "-"', "lines", GOPHER)
    ellipsis_line_ratio: Float64Array = _share("lines that end with an ellipsis", "lines", GOPHER)
    terminal_line_ratio: Float64Array = _share(
        "lines that end with a mark that ends sentences", "filled lines", FINEWEB
    )
    short_line_ratio: Float64Array = _share("lines of at most 30 characters", "filled lines", FINEWEB)
    newline_word_ratio: Float64Array = _ratio("newlines", "word", FINEWEB)
    mean_line_words: Float64Array = _signal("words per filled line", "words", REDPAJAMA, "from 0")
    mean_line_digit_ratio: Float64Array = _share(
        "decimal digits, the mean over filled lines", "a line's characters", REDPAJAMA
    )
    mean_line_upper_ratio: Float64Array = _share("capitals, mean over filled lines", "characters of a line", REDPAJAMA)
    duplicate_line_ratio: Float64Array = _share("lines seen before in the document", "lines", GOPHER)
    duplicate_line_char_ratio: Float64Array = _share("characters in lines seen before", "characters", GOPHER)
    duplicate_filled_line_char_ratio: Float64Array = _share(
        "characters in filled lines seen before", "characters but newlines", FINEWEB
    )
    duplicate_paragraph_ratio: Float64Array = _share("paragraphs seen before", "paragraphs", GOPHER)
    duplicate_paragraph_char_ratio: Float64Array = _share("characters in paragraphs seen before", "characters", GOPHER)
    top_2_gram_ratio: Float64Array = _ratio("characters in the most frequent 2-gram", "character", GOPHER)
    top_3_gram_ratio: Float64Array = _ratio("characters in the most frequent 3-gram", "character", GOPHER)
    top_4_gram_ratio: Float64Array = _ratio("characters in the most frequent 4-gram", "character", GOPHER)
    duplicate_5_gram_ratio: Float64Array = _share("characters in 5-grams seen before", "characters", GOPHER)
    duplicate_6_gram_ratio: Float64Array = _share("characters in 6-grams seen before", "characters", GOPHER)
    duplicate_7_gram_ratio: Float64Array = _share("characters in 7-grams seen before", "characters", GOPHER)
    duplicate_8_gram_ratio: Float64Array = _share("characters in 8-grams seen before", "characters", GOPHER)
    duplicate_9_gram_ratio: Float64Array = _share("characters in 9-grams seen before", "characters", GOPHER)
    duplicate_10_gram_ratio: Float64Array = _share("characters in 10-grams seen before", "characters", GOPHER)
    latin_ratio: Float64Array = _share("Latin letters", "letters")
    han_ratio: Float64Array = _share("Han characters", "letters")
    kana_ratio: Float64Array = _share("Kana", "letters")
    hangul_ratio: Float64Array = _share("Hangul", "letters")
    cyrillic_ratio: Float64Array = _share("Cyrillic letters", "letters")
    arabic_ratio: Float64Array = _share("Arabic letters", "letters")
    other_script_ratio: Float64Array = _share("letters of other scripts", "letters")
    num_urls: Int64Array = _count('"://" and bare "www."')
    num_emails: Int64Array = _count("e-mail addresses")
    num_phones: Int64Array = _count("runs of 10 to 15 digits as telephone numbers are written")
    num_call_to_action: Int64Array = _count("listed calls to act: click here, 点击领取 ...")
    num_offer: Int64Array = _count("listed offers: discounts, prizes, easy money")
    num_gambling: Int64Array = _count("listed phrases of gambling")
    num_handle: Int64Array = _count("listed ways to name a chat account: WeChat, QQ, Telegram ...")
    num_lorem_ipsum: Int64Array = _count('"lorem ipsum"', C4)
    num_javascript: Int64Array = _count('"javascript"', C4)
    num_policy: Int64Array = _count("listed phrases of cookie and privacy notes", C4)
    num_stop_words: Int64Array = _count("distinct stop words of the document's language", GOPHER, "words")
    stop_word_ratio: Float64Array = _share("stop words of the document's language", "words", REDPAJAMA)
    language: StringArray = _signal('ISO 639-1 code, "und" where unknown', "code", "language.py", "")
    language_confidence: Float64Array = _signal("how sure the language is", "probability", "language.py")

    def __len__(self) -> int:
        return len(self.num_bytes)

    def take(self, rows: npt.NDArray[Any]) -> "Signals":
        """The given rows (indices or a mask)."""
        return Signals(**{name: column[rows] for name, column in self.columns()})

    def followed_by(self, other: "Signals") -> "Signals":
        """These rows and then those of `other`."""
        return concatenate([self, other])

    def columns(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """Name and values of each signal, in order."""
        return ((each.name, getattr(self, each.name)) for each in fields(self))

    def table(self) -> pa.Table:
        """The signals as an Arrow table."""
        return pa.table({name: pa.array(column) for name, column in self.columns()})


def concatenate(parts: Sequence[Signals]) -> Signals:
    """The rows of all parts, one after another."""
    return Signals(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in NAMES})


NAMES = tuple(each.name for each in fields(Signals))
NUMERIC_NAMES = tuple(name for name in NAMES if name != "language")


def from_table(table: pa.Table) -> Signals:
    """The signals of a table that `Signals.table` made."""
    columns: dict[str, Any] = {name: table[name].to_numpy() for name in NAMES}
    return Signals(**{**columns, "language": columns["language"].astype(str)})


def measure(texts: pa.Array, stop_words: Mapping[str, Sequence[str]], listed: Mapping[str, Sequence[str]]) -> Signals:
    """Measure every text of a large_string array.

    stop_words: language -> words; listed: kind of `phrases.PHRASE_KINDS` -> phrases.
    """
    rows, stop_found = measure_rows(texts, stop_words)
    counts = np.zeros((len(texts), len(phrases.PHRASE_KINDS)))
    machine, (data, offsets) = (
        _automaton(tuple((kind, tuple(some)) for kind, some in listed.items())),
        string_buffers(texts),
    )
    tables = machine.tables()
    phrases.count_phrases(data, offsets, 0, len(texts), *tables, counts)
    names, confidence = language.identify(texts, rows, stop_found, list(stop_words))
    return combine_columns(rows, counts, stop_found, list(stop_words), names, confidence)


def measure_rows(texts: pa.Array, stop_words: Mapping[str, Sequence[str]]) -> tuple[Float64Array, Int64Array]:
    """What the kernels measure: float64 [documents, columns], and stop words found, int64 [documents, 2, languages]."""
    data, offsets = string_buffers(texts)
    rows, found = np.zeros((len(texts), len(Column))), np.zeros((len(texts), 2, len(stop_words)), np.int64)
    tables = characters.class_table(), *_stop_table(tuple(map(tuple, stop_words.values())))
    signal_kernels.measure(data, offsets, 0, len(texts), *tables, rows, found)
    return rows, found


def string_buffers(texts: pa.Array) -> tuple[UInt8Array, Int64Array]:
    """Bytes and the n + 1 offsets of a large_string array, where they lie."""
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    return np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1]


def combine_columns(
    rows: Float64Array,
    counts: Float64Array,
    stop_found: Int64Array,
    languages: list[str],
    names: StringArray,
    confidence: Float64Array,
) -> Signals:
    """The signals of documents in the languages `names`, from what was measured of them."""
    columns: dict[str, Any] = {column.name: np.ascontiguousarray(rows[:, column]) for column in Column}
    columns |= {f"num_{kind}": counts[:, i] for i, kind in enumerate(phrases.PHRASE_KINDS)}
    columns = {name: c.astype(np.int64) if name.startswith("num_") else c for name, c in columns.items()}
    columns["max_token_length"] = columns["max_token_length"].astype(np.int64)
    distinct, total = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for i, code in enumerate(languages):
        mine = names == code
        distinct[mine], total[mine] = stop_found[mine, 0, i], stop_found[mine, 1, i]
    ratio = total / np.maximum(columns["num_words"], 1)
    columns |= {"num_stop_words": distinct, "stop_word_ratio": ratio}
    return Signals(**columns, language=names, language_confidence=confidence)


@lru_cache(4)
def _automaton(listed: tuple[tuple[str, tuple[str, ...]], ...]) -> phrases.Automaton:
    return phrases.build_automaton(dict(listed))


@lru_cache(4)
def _stop_table(lists: tuple[tuple[str, ...], ...]) -> tuple[UInt64Array, Int64Array]:
    """Open addressing: keys uint64 [size], 0 where free, and the lists each word is on, as bits."""
    words: dict[str, int] = {}
    for bit, some in enumerate(lists):
        for word in some:
            words[word] = words.get(word, 0) | 1 << bit
    size = 4
    while size < 4 * len(words):
        size *= 2
    keys, bits = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    for word, on in words.items():
        key = signal_kernels.word_key(np.array([ord(character) for character in word], np.uint32))
        slot = (int(key) >> 20) & (size - 1)
        while keys[slot]:
            slot = (slot + 1) & (size - 1)
        keys[slot], bits[slot] = key, on
    return keys, bits
