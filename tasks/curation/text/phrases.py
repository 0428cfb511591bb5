"""Count listed phrases of several kinds in one pass over the bytes of a text, whatever the number of phrases.

The algorithm is that of Aho and Corasick (1975). ASCII case and the kind of space do not matter. A phrase that begins
or ends with an ASCII letter or digit matches only at the border of a word.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Float64Array, Int64Array, UInt8Array

PHRASE_KINDS = ("call_to_action", "offer", "gambling", "handle", "lorem_ipsum", "javascript", "policy")
"""The kinds that `profiles/*.yaml` lists under `phrases`. The occurrences of each are the signal num_<kind>."""


@dataclass(frozen=True, slots=True)
class Automaton:
    """A finite automaton that reads bytes. State 0 is the start; a state stands for the beginning of some phrases.

    byte_classes: int64 [256]. Bytes that no phrase distinguishes have the same class, which keeps `moves` small.
    moves: int64 [states, classes], the next state.
    ends: int64 [states + 1]; the phrases that end in state s are matches[ends[s] : ends[s + 1]].
    matches: int64 [n, 2], the kind and the length in bytes of a phrase.
    """

    byte_classes: Int64Array
    moves: Int64Array
    ends: Int64Array
    matches: Int64Array

    def tables(self) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """Return the arrays in the order in which `count_phrases` takes them."""
        return self.byte_classes, self.moves, self.ends, self.matches


def build_automaton(phrases: Mapping[str, Sequence[str]], kinds: Sequence[str] = PHRASE_KINDS) -> Automaton:
    """Return the automaton that finds every phrase. phrases: kind -> phrases; each kind is one of `kinds`."""
    kind_phrases = sorted({(fold(phrase), kinds.index(kind)) for kind, some in phrases.items() for phrase in some})
    byte_classes = _byte_classes([phrase for phrase, _ in kind_phrases])
    # A trie: state -> class of the next byte -> next state. outputs: state -> phrases that end there.
    trie: list[dict[int, int]] = [{}]
    outputs: list[list[tuple[int, int]]] = [[]]
    for phrase, kind in kind_phrases:
        state = 0
        for byte in phrase:
            if byte_classes[byte] not in trie[state]:
                trie[state][int(byte_classes[byte])] = len(trie)
                trie.append({})
                outputs.append([])
            state = trie[state][int(byte_classes[byte])]
        outputs[state].append((kind, len(phrase)))
    moves = _complete_moves(trie, outputs, int(byte_classes.max()) + 1)
    ends = np.cumsum([0, *map(len, outputs)])
    matches = np.array([pair for some in outputs for pair in some], np.int64).reshape(-1, 2)
    return Automaton(byte_classes, moves, ends.astype(np.int64), matches)


def fold(phrase: str) -> bytes:
    """Return the UTF-8 bytes of a phrase with ASCII letters in lower case and one space for every run of spaces."""
    return " ".join(phrase.split()).encode().lower()


def _byte_classes(phrases: list[bytes]) -> Int64Array:
    """Number the bytes that occur in phrases; an upper-case letter and every ASCII space share a number. 0: others."""
    classes = np.zeros(256, np.int64)
    for number, byte in enumerate(sorted({byte for phrase in phrases for byte in phrase}), start=1):
        classes[byte] = number
        if ord("a") <= byte <= ord("z"):
            classes[byte - 32] = number
    for space in b"\t\n\r":
        classes[space] = classes[ord(" ")]
    return classes


def _complete_moves(trie: list[dict[int, int]], outputs: list[list[tuple[int, int]]], num_classes: int) -> Int64Array:
    """Return the moves of all states on all classes, and extend `outputs`.

    Where the trie has no child for a byte, the automaton continues at the state of the longest suffix of what it has
    read that is also the beginning of a phrase. States are visited in breadth-first order, because that suffix is
    shorter and its moves must be complete before they are copied. A state also reports the phrases that end in its
    suffix: "free gift" reports "gift".
    """
    moves = np.zeros((len(trie), num_classes), np.int64)
    queue = [(child, byte_class, 0) for byte_class, child in trie[0].items()]
    for byte_class, child in trie[0].items():
        moves[0, byte_class] = child
    for state, _, suffix in queue:
        outputs[state].extend(outputs[suffix])
        moves[state] = moves[suffix]
        # A child's suffix is where the suffix of this state goes with the same byte. Read it before the moves of this
        # state are set.
        queue.extend((child, byte_class, int(moves[suffix, byte_class])) for byte_class, child in trie[state].items())
        for byte_class, child in trie[state].items():
            moves[state, byte_class] = child
    return moves


@kernel("boolean(uint8)")
def _is_ascii_alphanumeric(byte: int) -> bool:
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
    matches: Int64Array,
    counts: Float64Array,
) -> None:
    """Add the occurrences of phrases in the documents first..last-1 to counts[first:last] ([documents, kinds])."""
    for d in range(first, last):
        start, end, state = offsets[d], offsets[d + 1], 0
        for i in range(start, end):
            state = moves[state, byte_classes[data[i]]]
            for match in range(ends[state], ends[state + 1]):
                begin = i + 1 - matches[match, 1]
                # A match inside a word does not count: "casinos" does not contain "casino". Between other characters
                # (Chinese, punctuation) there is no such border, and every match counts.
                cuts_word_before = (
                    begin > start and _is_ascii_alphanumeric(data[begin]) and _is_ascii_alphanumeric(data[begin - 1])
                )
                cuts_word_after = (
                    i + 1 < end and _is_ascii_alphanumeric(data[i]) and _is_ascii_alphanumeric(data[i + 1])
                )
                if not cuts_word_before and not cuts_word_after:
                    counts[d, matches[match, 0]] += 1
