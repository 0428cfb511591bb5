"""The classes of every code point as bits in one table, so that kernels need no call into Python.

General categories are those of the Unicode data of the running Python. Two sets come from elsewhere: PUNCTUATION as
CCNet (arXiv:1911.00359) and datatrove define it, TERMINAL as Unicode's property Sentence_Terminal.
"""

import string
import unicodedata
from functools import cache

import numpy as np

from tasks.curation.arrays import UInt16Array

LETTER, DIGIT, WORD, SPACE, PUNCTUATION, TERMINAL, UPPER, LINE_BREAK, SINGLE, MARK, CLOSING = (
    1 << bit for bit in range(11)
)
"""One bit for each class of a code point; a code point may have several.

LETTER: categories L*. DIGIT: Nd. WORD: L*, N* and "_". SPACE: `str.isspace`. UPPER: Lu. LINE_BREAK: `str.splitlines`
splits there. SINGLE: Han and Kana, of which each character counts as a word, because these scripts are written without
spaces. MARK: M* (combining marks), which can continue a word but not begin one. CLOSING: quotes and brackets that may
follow the mark that ends a sentence: Pe, Pf, straight quotes, and the marks that some typists use as closing quotes.
"""

SCRIPT_SHIFT = 12
SCRIPTS = (
    "other",
    "latin",
    "han",
    "kana",
    "hangul",
    "cyrillic",
    "arabic",
    "greek",
    "hebrew",
    "devanagari",
    "thai",
    "han_ja",
    "han_zh",
)
LATIN, HAN, KANA, HANGUL, HAN_JA, HAN_ZH = 1, 2, 3, 4, 11, 12  # positions in SCRIPTS
"""Han characters are of three kinds: `han_ja` is written in Japanese only, `han_zh` not in Japanese, `han` in both."""

TABLE_SIZE = 0x20000
"""Planes 0 and 1. Above them, the code points of planes 2 and 3 are Han, and the others are neither letter nor space.

A table of all 0x110000 code points would need 2 MB, more than the cache of a core holds.
"""
HAN_BEYOND = LETTER | WORD | SINGLE | HAN << SCRIPT_SHIFT
HAN_PLANES_END = 0x40000

_SCRIPT_RANGES = {
    "latin": "41-5a 61-7a aa ba c0-d6 d8-f6 f8-2b8 1e00-1eff 2c60-2c7f a722-a7ff ff21-ff3a ff41-ff5a",
    "han": "3005 3007 3021-3029 3400-4dbf 4e00-9fff f900-faff",
    "kana": "3041-3096 309d-309f 30a1-30fa 30fc-30ff 31f0-31ff ff66-ff9f",
    "hangul": "1100-11ff 3131-318e a960-a97f ac00-d7a3 d7b0-d7ff",
    "cyrillic": "400-52f 1c80-1c8f 2de0-2dff a640-a69f",
    "arabic": "600-6ff 750-77f 8a0-8ff fb50-fdff fe70-feff",
    "greek": "370-3ff 1f00-1fff",
    "hebrew": "590-5ff fb1d-fb4f",
    "devanagari": "900-97f a8e0-a8ff",
    "thai": "e00-e7f",
}
_SENTENCE_TERMINAL = """21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e
1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d
2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb
fe52 fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6
111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946
11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98 1bc9f 1da88"""
_CCNET_MARKS = "«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
_CHINESE_WORDS = "的是了我也很就那呢她"
_CLOSING_MARKS = "\"'“‘«‹＂＇`*_~"
_CONTROLS = "0-8 b-1f 7f-9f"
_LINE_BREAKS = "a-d 1c-1e 85 2028-2029"


@cache
def class_table() -> UInt16Array:
    """Return the class bits of each code point below TABLE_SIZE, uint16; the script is in the upper four bits."""
    table = np.zeros(TABLE_SIZE, np.uint16)
    categories = np.array([unicodedata.category(chr(code)) for code in range(TABLE_SIZE)])
    major = categories.astype("U1")  # the first letter
    table[major == "L"] |= LETTER
    table[np.isin(major, ["L", "N"])] |= WORD
    table[major == "M"] |= MARK
    table[ord("_")] |= WORD
    table[categories == "Nd"] |= DIGIT
    table[categories == "Lu"] |= UPPER
    table[[code for code in range(TABLE_SIZE) if chr(code).isspace()]] |= SPACE
    terminal = _codes(_SENTENCE_TERMINAL)
    table[[*map(ord, string.punctuation + _CCNET_MARKS), *_codes(_CONTROLS), *terminal]] |= PUNCTUATION
    table[terminal] |= TERMINAL
    table[_codes(_LINE_BREAKS)] |= LINE_BREAK
    table[np.isin(categories, ["Pe", "Pf"])] |= CLOSING
    table[[*map(ord, _CLOSING_MARKS)]] |= CLOSING
    for number, script in enumerate(SCRIPTS):
        table[_codes(_SCRIPT_RANGES.get(script, ""))] |= number << SCRIPT_SHIFT
    for code in _codes(_SCRIPT_RANGES["han"]):
        table[code] = table[code] & ((1 << SCRIPT_SHIFT) - 1) | _han_kind(chr(code)) << SCRIPT_SHIFT
    # The ranges contain numerals and iteration marks that are no letters, such as U+3007; they are words all the same.
    table[_codes(_SCRIPT_RANGES["han"])] |= SINGLE | WORD
    table[_codes(_SCRIPT_RANGES["kana"])] |= SINGLE | WORD
    return table


def _han_kind(character: str) -> int:
    """Return HAN_JA, HAN_ZH or HAN, by the national character sets that contain a Han character.

    JIS X 0208 contains the characters of Japanese, GB 2312 those of simplified and Big5 those of traditional Chinese.
    The words of Chinese grammar count as Chinese, though Japanese has their characters.
    """
    if character in _CHINESE_WORDS:
        return HAN_ZH
    japanese, *chinese = (_is_encodable(character, name) for name in ("iso2022_jp", "gb2312", "big5"))
    if japanese == any(chinese):
        return HAN
    return HAN_JA if japanese else HAN_ZH


def _is_encodable(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def word_pattern() -> str:
    """Return a regular expression for the module `regex` that matches the words that the kernels find."""
    ranges = f"{_SCRIPT_RANGES['han']} {_SCRIPT_RANGES['kana']} {TABLE_SIZE:x}-{HAN_PLANES_END - 1:x}"
    single = "".join("-".join(f"\\U{int(end, 16):08x}" for end in part.split("-")) for part in ranges.split())
    return rf"(?V1)[{single}]|[[\p{{L}}\p{{N}}_]--[{single}]][[\p{{L}}\p{{N}}\p{{M}}_]--[{single}]]*"


def _codes(ranges: str) -> list[int]:
    """Return the code points of ranges such as "41-5a aa", with both ends."""
    ends = ([int(end, 16) for end in part.split("-")] for part in ranges.split())
    return [code for pair in ends for code in range(pair[0], pair[-1] + 1)]
