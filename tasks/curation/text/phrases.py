"""Count listed phrases of several kinds in one pass over the bytes (Aho and Corasick, 1975), case and space folded.

A phrase that begins or ends with an ASCII letter or digit is found only where a word does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.curation.arrays import Float64Array, Int64Array, UInt8Array
from tasks.curation.compiled import kernel

KINDS = ("call_to_action", "offer", "gambling", "handle", "lorem_ipsum", "javascript", "policy")
"""What `profiles/*.yaml` lists under `phrases`; each becomes a signal num_<kind>."""


@dataclass(frozen=True, slots=True)
class Automaton:
    """moves: int64 [states, classes]; ends: int64 [states + 1] into found (int64 [n, 2]: kind, length in bytes)."""

    byte_classes: Int64Array
    moves: Int64Array
    ends: Int64Array
    found: Int64Array


def automaton(phrases: Mapping[str, Sequence[str]], kinds: Sequence[str] = KINDS) -> Automaton:
    """The automaton that finds every phrase of every kind."""
    listed = sorted({(fold(phrase), kinds.index(kind)) for kind, some in phrases.items() for phrase in some})
    classes = _byte_classes([phrase for phrase, _ in listed])
    trie: list[dict[int, int]] = [{}]
    outputs: list[list[tuple[int, int]]] = [[]]
    for phrase, kind in listed:
        state = 0
        for byte in phrase:
            if classes[byte] not in trie[state]:
                trie[state][int(classes[byte])] = len(trie)
                trie.append({})
                outputs.append([])
            state = trie[state][int(classes[byte])]
        outputs[state].append((kind, len(phrase)))
    moves = _moves(trie, outputs, int(classes.max()) + 1)
    ends = np.cumsum([0, *map(len, outputs)])
    found = np.array([pair for some in outputs for pair in some], np.int64).reshape(-1, 2)
    return Automaton(classes, moves, ends.astype(np.int64), found)


def fold(phrase: str) -> bytes:
    """The bytes of a phrase with ASCII in lower case and every run of space as one space."""
    return " ".join(phrase.split()).encode().lower()


def _byte_classes(phrases: list[bytes]) -> Int64Array:
    classes = np.zeros(256, np.int64)
    for number, byte in enumerate(sorted({byte for phrase in phrases for byte in phrase}), start=1):
        classes[byte] = number
        if ord("a") <= byte <= ord("z"):
            classes[byte - 32] = number
    for space in b"\t\n\r":
        classes[space] = classes[ord(" ")]
    return classes


def _moves(trie: list[dict[int, int]], outputs: list[list[tuple[int, int]]], num_classes: int) -> Int64Array:
    """Fill in where to go on a miss, breadth first; a state also finds what its longest suffix finds."""
    moves = np.zeros((len(trie), num_classes), np.int64)
    queue = [(child, kind, 0) for kind, child in trie[0].items()]
    for kind, child in trie[0].items():
        moves[0, kind] = child
    for state, _, suffix in queue:
        outputs[state].extend(outputs[suffix])
        moves[state] = moves[suffix]
        queue.extend((child, kind, int(moves[suffix, kind])) for kind, child in trie[state].items())
        for kind, child in trie[state].items():
            moves[state, kind] = child
    return moves


@kernel("boolean(uint8)")
def _in_word(byte: int) -> bool:
    return 0x30 <= byte <= 0x39 or 0x61 <= byte | 0x20 <= 0x7A


@kernel(
    "void(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), int64, int64, int64[::1],"
    " int64[:, ::1], int64[::1], int64[:, ::1], float64[:, ::1])"
)
def count_phrases(
    data: UInt8Array,
    offsets: Int64Array,
    first: int,
    last: int,
    byte_classes: Int64Array,
    moves: Int64Array,
    ends: Int64Array,
    found: Int64Array,
    counts: Float64Array,
) -> None:
    """Add the phrases of documents first..last-1 to counts[first:last] ([documents, kinds])."""
    for d in range(first, last):
        start, end, state = offsets[d], offsets[d + 1], 0
        for i in range(start, end):
            state = moves[state, byte_classes[data[i]]]
            for hit in range(ends[state], ends[state + 1]):
                begin = i + 1 - found[hit, 1]
                cut_before = begin > start and _in_word(data[begin]) and _in_word(data[begin - 1])
                cut_behind = i + 1 < end and _in_word(data[i]) and _in_word(data[i + 1])
                if not cut_before and not cut_behind:
                    counts[d, found[hit, 0]] += 1
