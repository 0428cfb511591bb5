"""The fold table: which characters count as the same, and which make words, when texts are compared.

Used for keys only; stored text is never folded. Width variants (NFKC where it gives one character), upper case and
traditional Chinese are folded away, one code point to one code point.
"""

import functools
import hashlib
import unicodedata

import numpy as np
import opencc

from tasks.curation.arrays import Int64Array, UInt32Array

SIZE = 0x30000  # planes 0 to 2; what lies above separates words
WORD, SINGLE = 1 << 30, 2 << 30  # part of a word; a token by itself, as in scripts without spaces
CODE = (1 << 30) - 1
UNDERSCORE = 0x7F  # where `byte | 0x20`, which lowers all other ASCII word characters, puts it

_HAN = ((0x2E80, 0x2FE0), (0x3005, 0x3008), (0x3400, 0xA000), (0xF900, 0xFB00), (0x20000, SIZE))
_KANA_HANGUL = ((0x1100, 0x1200), (0x3040, 0x3130), (0x3130, 0x3190), (0x31A0, 0x3200), (0xA960, 0xA980))
_HANGUL_SYLLABLES = ((0xAC00, 0xD800), (0xFF66, 0xFFDD))
_SOUTH_EAST_ASIA = ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800))  # Thai, Lao, Burmese, Khmer
_SURROGATES = slice(0xD800, 0xE000)
_SINGLE = (*_HAN, *_KANA_HANGUL, *_HANGUL_SYLLABLES, *_SOUTH_EAST_ASIA)


@functools.cache
def fold_table() -> UInt32Array:
    """uint32[SIZE]: for each code point the folded one, plus WORD, SINGLE or neither (it separates words).

    Threads that need it at once should be started when it is there: each would make its own.
    """
    folded = _simplified()[_narrow_and_lower()]
    folded[_SURROGATES] = np.arange(_SURROGATES.start, _SURROGATES.stop)
    top = int(folded.max()) + 1
    words, single = np.fromiter(map(_makes_words, map(chr, range(top))), np.bool_, top), np.zeros(top, np.bool_)
    for low, high in _SINGLE:
        single[low:high] = True
    marks = np.where(words, np.where(single, SINGLE, WORD), 0).astype(np.uint32)
    marks[_SURROGATES] = 0
    codes = np.where(folded == ord("_"), UNDERSCORE, folded).astype(np.uint32) | marks[folded]
    codes.setflags(write=False)
    return codes


@functools.cache
def digest() -> str:
    """Names this table: it changes with the versions of Unicode and OpenCC, and keys of two tables must not mix."""
    return hashlib.sha256(fold_table().tobytes()).hexdigest()[:16]


def fold_text(raw: str) -> str:
    """`raw` with every character folded. The reference for the kernels, and handy in tests."""
    codes = fold_table()
    return "".join(chr(int(codes[ord(c)]) & CODE) if ord(c) < SIZE else c for c in raw)


def _narrow_and_lower() -> Int64Array:
    """Each code point without width and upper case, where that leaves one. Most blocks of 256 have neither."""
    codes = np.arange(SIZE)
    for start in range(0, SIZE, 256):
        block = "".join(map(chr, range(start, start + 256)))
        if not unicodedata.normalize("NFKC", block) == block == block.lower():
            codes[start : start + 256] = [_folded(character) for character in block]
    return codes


def _folded(character: str) -> int:
    for change in (lambda c: unicodedata.normalize("NFKC", c), str.lower):
        changed = change(character)
        character = changed if len(changed) == 1 else character
    return ord(character)


def _makes_words(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")


def _simplified() -> Int64Array:
    """Each code point, traditional characters as simplified."""
    han = [chr(code) for low, high in _HAN for code in range(low, high)]
    converted = opencc.OpenCC("t2s").convert("\n".join(han)).split("\n")
    assert len(converted) == len(han)
    codes = np.arange(SIZE)
    pairs = [(ord(old), ord(new)) for old, new in zip(han, converted, strict=True) if old != new and len(new) == 1]
    old, new = np.array(pairs).T
    codes[old] = new
    return codes
