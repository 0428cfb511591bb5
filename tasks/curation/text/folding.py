"""The fold table: which characters count as equal, and which belong to words, when texts are compared.

It is used for keys only; stored text is never folded. Folding removes differences of width (by NFKC, if the result is
one character), of case, and between traditional and simplified Chinese. Every code point is folded to one code point,
so that a kernel can look it up.
"""

import functools
import hashlib
import unicodedata

import numpy as np
import opencc

from tasks.curation.arrays import Int64Array, UInt32Array

SIZE = 0x30000  # planes 0 to 2; code points above separate words
WORD, SINGLE = 1 << 30, 2 << 30  # part of a word; a token by itself, as in scripts that are written without spaces
CODE = (1 << 30) - 1  # the bits of the folded code point
# The kernels convert ASCII word characters to lower case by `byte | 0x20`. This is correct for letters and digits, but
# changes "_" (0x5F) to 0x7F. The table folds "_" to the same code, so that both ways give equal hashes.
UNDERSCORE = 0x7F

_HAN = ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, SIZE))
_KANA_HANGUL = ((0x1100, 0x1200), (0x3040, 0x3130), (0x3130, 0x3190), (0x31A0, 0x3200), (0xA960, 0xA980))
_HANGUL_SYLLABLES = ((0xAC00, 0xD800), (0xFF66, 0xFFDD))
_SOUTH_EAST_ASIA = ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800))  # Thai, Lao, Burmese, Khmer
_SURROGATES = slice(0xD800, 0xE000)
_SINGLE = (*_HAN, *_KANA_HANGUL, *_HANGUL_SYLLABLES, *_SOUTH_EAST_ASIA)


@functools.cache
def fold_table() -> UInt32Array:
    """Return uint32 [SIZE]: for each code point the folded one, plus WORD, SINGLE, or neither if it separates words.

    Call this function once before starting threads. Threads that find no table would each build one.
    """
    folded = _simplified()[_narrow_and_lower()]
    folded[_SURROGATES] = np.arange(_SURROGATES.start, _SURROGATES.stop)  # not characters; valid UTF-8 has none
    top = int(folded.max()) + 1
    words, single = np.fromiter(map(_is_in_words, map(chr, range(top))), np.bool_, top), np.zeros(top, np.bool_)
    for low, high in _SINGLE:
        single[low:high] = True
    marks = np.where(words, np.where(single, SINGLE, WORD), 0).astype(np.uint32)
    marks[_SURROGATES] = 0
    codes = np.where(folded == ord("_"), UNDERSCORE, folded).astype(np.uint32) | marks[folded]
    codes.setflags(write=False)
    return codes


@functools.cache
def digest() -> str:
    """Return a hash of this table. It changes with the versions of Unicode and OpenCC.

    Stored keys carry it, because keys that were made with different tables must not be compared.
    """
    return hashlib.sha256(fold_table().tobytes()).hexdigest()[:16]


def fold_text(raw: str) -> str:
    """Return `raw` with every character folded; in plain Python, as the reference for kernels and for tests."""
    codes = fold_table()
    return "".join(chr(int(codes[ord(c)]) & CODE) if ord(c) < SIZE else c for c in raw)


def _narrow_and_lower() -> Int64Array:
    """Return each code point without its width and case, if the result is one code point."""
    codes = np.arange(SIZE)
    # Testing whole blocks saves most of the time, because most blocks of 256 code points contain nothing to fold.
    for start in range(0, SIZE, 256):
        block = "".join(map(chr, range(start, start + 256)))
        if not unicodedata.normalize("NFKC", block) == block == block.lower():
            codes[start : start + 256] = [_fold_character(character) for character in block]
    return codes


def _fold_character(character: str) -> int:
    for change in (lambda c: unicodedata.normalize("NFKC", c), str.lower):
        changed = change(character)
        character = changed if len(changed) == 1 else character
    return ord(character)


def _is_in_words(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def _simplified() -> Int64Array:
    """Return each code point, with the simplified character in place of a traditional one."""
    han = [chr(code) for low, high in _HAN for code in range(low, high)]
    converted = opencc.OpenCC("t2s").convert("\n".join(han)).split("\n")
    assert len(converted) == len(han)
    codes = np.arange(SIZE)
    pairs = [(ord(old), ord(new)) for old, new in zip(han, converted, strict=True) if old != new and len(new) == 1]
    old, new = np.array(pairs).T
    codes[old] = new
    return codes
