"""Patterns of pre-tokenization that the compiled encoder knows: this project's own and those of known models.

Those are GPT-2, Llama 3 and Qwen 2. All patterns have the same parts: contractions, numbers, Han characters, words,
punctuation, line ends and spaces. They differ in which characters belong to a part, and in how long a match may be.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, normalizers

from tasks.tokenization import bpe

NUMBER, HAN, LETTER, PREFIX, PUNCTUATION, SPACE, LINE_END = (1 << bit for bit in range(7))
"""One bit for each class of a character.

HAN: Han characters that are matched apart from other letters. PREFIX: one such character may precede the letters of a
word. The other classes are what the alternatives of the pattern repeat.
"""
UNBOUNDED = 1 << 62
NUM_CODE_POINTS = 0x110000
_BLOCK = 1 << 12  # code points that are looked up at once
_SURROGATES = range(0xD800, 0xE000)  # they are no characters and do not occur in UTF-8

UInt8Array = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]
Integer: TypeAlias = int | np.signedinteger[Any]  # in kernels


@dataclass(frozen=True, slots=True)
class Rules:
    """How a pattern splits a text.

    numbers, han, letters, prefixes: regular expressions of one character, "" for none. max_numbers, max_run: the most
    characters of a match of numbers, and of any other repetition. contractions: 0 for none, 1 for lower case only, 2
    for any case. number_has_space: whether a space may precede numbers. line_ends: whether line ends are matches of
    their own, or belong to the punctuation before them.
    """

    numbers: str
    han: str
    letters: str
    prefixes: str
    max_numbers: int
    max_run: int
    contractions: int
    number_has_space: bool
    line_ends: bool

    def numeric(self) -> Int64Array:
        """Return the rules that the kernel reads, int64 [5], in the order of `split_kernels`."""
        values = (self.max_numbers, self.max_run, self.contractions, self.number_has_space, self.line_ends)
        return np.array(values, np.int64)

    def class_table(self) -> UInt8Array:
        """Return the class bits of each code point, uint8 [NUM_CODE_POINTS]."""
        patterns = {NUMBER: self.numbers, HAN: self.han, LETTER: self.letters, PREFIX: self.prefixes}
        patterns |= {PUNCTUATION: r"[^\s\p{L}\p{N}]", SPACE: r"\s", LINE_END: r"[\r\n]"}
        table = np.zeros(NUM_CODE_POINTS, np.uint8)
        for bit, pattern in patterns.items():
            if pattern:
                table[_members(pattern)] |= bit
        return table


_GPT2 = Rules(r"\p{N}", "", r"\p{L}", " ", UNBOUNDED, UNBOUNDED, 1, True, False)
_AFTER_GPT4 = (r"\p{N}", "", r"\p{L}", r"[^\r\n\p{L}\p{N}]")
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD, _REST = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
RULES = {
    bpe.PATTERN: Rules(
        rf"\p{{N}}|[{bpe.NUMERALS}]", bpe.HAN, bpe.LETTER, r"[^\r\n\p{L}\p{N}]", 1, bpe.MAX_WORD, 0, False, True
    ),
    rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}": Rules(*_AFTER_GPT4, 3, UNBOUNDED, 2, False, True),  # Llama 3
    rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}": Rules(*_AFTER_GPT4, 1, UNBOUNDED, 2, False, True),  # Qwen 2
}


def rules_of(pre_tokenizer: dict[str, Any] | None) -> Rules | None:
    """Return the rules of a pre-tokenizer, as tokenizer.json describes it; None if the kernels do not know them."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False}
    parts = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    last = {name: value for name, value in parts[-1].items() if name != "trim_offsets"}  # offsets are not used
    if len(parts) == 1:
        return _GPT2 if last == {**byte_level, "use_regex": True} else None
    if len(parts) != 2 or last != {**byte_level, "use_regex": False}:
        return None
    pattern = parts[0].get("pattern", {}).get("Regex", "")
    is_split = parts[0] == {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return RULES.get(pattern) if is_split else None


@cache
def _members(pattern: str) -> npt.NDArray[np.bool_]:
    """Return for each code point whether `pattern` matches it, bool [NUM_CODE_POINTS].

    The library's own regular expressions answer, because versions of Unicode differ in the classes of characters.
    """
    remove = normalizers.Replace(Regex(f"(?:{pattern})+"), "")
    is_member = np.ones(NUM_CODE_POINTS, np.bool_)
    is_member[_SURROGATES.start : _SURROGATES.stop] = False
    for first in range(0, NUM_CODE_POINTS, _BLOCK):
        block = np.arange(first, first + _BLOCK, dtype="<u4")[is_member[first : first + _BLOCK]]
        others = remove.normalize_str(block.tobytes().decode("utf-32-le"))
        is_member[np.frombuffer(others.encode("utf-32-le"), "<u4")] = False
    return is_member
