"""The compiled loops: UTF-8 bytes -> code points and their classes -> words -> one row of signals per document.

They read Arrow's string buffers as they are (offsets int64, data uint8), make no Python object, and release the GIL.
A word is a run of letters, digits and "_" (and marks, but none first), or one Han or Kana character.
"""

import math

import numpy as np

from tasks.curation.arrays import Float64Array, Int64Array, UInt8Array, UInt16Array, UInt32Array, UInt64Array
from tasks.curation.compiled import kernel
from tasks.curation.signals.columns import Column
from tasks.curation.signals.line_kernels import find_newlines, line_signals, paragraph_signals, splitline_signals
from tasks.curation.signals.link_kernels import link_signals
from tasks.curation.signals.repetition_kernels import (
    INVERSES,
    MAX_POWER,
    ONE,
    POWERS,
    SLOT_SHIFT,
    clear_table,
    mix,
    polynomial,
    repetition_signals,
)
from tasks.curation.text import characters

LETTER, DIGIT, WORD, SPACE = characters.LETTER, characters.DIGIT, characters.WORD, characters.SPACE
PUNCTUATION, TERMINAL = characters.PUNCTUATION, characters.TERMINAL
UPPER, SINGLE, MARK, SHIFT = characters.UPPER, characters.SINGLE, characters.MARK, characters.SCRIPT_SHIFT
TABLE_SIZE, HAN_BEYOND, HAN_END = characters.TABLE_SIZE, characters.HAN_BEYOND, characters.HAN_PLANES_END
NUM_SCRIPTS = len(characters.SCRIPTS)
WEIGHTED = np.array([0.0, *(count * math.log(count) for count in range(1, 256))])  # n log n, for small n
NUM_COLUMNS = len(Column)

_DECODE = "int64(Array(uint8, 1, 'C', readonly=True), int64, int64, uint16[::1], uint32[::1], uint16[::1])"


@kernel(_DECODE)
def decode_text(
    data: UInt8Array, start: int, end: int, table: UInt16Array, codes: UInt32Array, kinds: UInt16Array
) -> int:
    """Fill codes and kinds (class bits) with the characters of data[start:end]; their number."""
    i, n = start, 0
    while i < end:
        byte = np.uint32(data[i])
        if byte < 0x80:
            code = byte
            i += 1
        elif byte < 0xE0:
            code = (byte & 0x1F) << 6 | data[i + 1] & 0x3F
            i += 2
        elif byte < 0xF0:
            code = (byte & 0xF) << 12 | (data[i + 1] & 0x3F) << 6 | data[i + 2] & 0x3F
            i += 3
        else:
            code = (byte & 7) << 18 | (data[i + 1] & 0x3F) << 12 | (data[i + 2] & 0x3F) << 6 | data[i + 3] & 0x3F
            i += 4
        codes[n] = code
        kinds[n] = table[code] if code < TABLE_SIZE else (HAN_BEYOND if code < HAN_END else 0)
        n += 1
    return n


@kernel("int64(uint32[::1], uint16[::1], int64, uint64[::1], uint64[::1], uint64[::1], int64[::1], uint16[::1])")
def split_words(
    codes: UInt32Array,
    kinds: UInt16Array,
    n: int,
    sums: UInt64Array,
    stream: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    all_kinds: UInt16Array,
) -> int:
    """Find the words; their number w.

    With the words written one after another without spaces, word i begins at character chars[i]; stream[c] is the sum
    of code * BASE**position before character c, sums[i] that before word i, and inverses[i] = BASE**-chars[i]. So the
    hash of words i..j, the same wherever they stand, is (sums[j + 1] - sums[i]) * inverses[i]. all_kinds[i] holds the
    bits that all its characters share in the low byte, and those that any has in the high byte.
    """
    i, w, length = 0, 0, 0
    total, power, inverse = np.uint64(0), ONE, ONE
    while i < n:
        kind = kinds[i]
        if not kind & WORD:
            i += 1
            continue
        sums[w], inverses[w], chars[w] = total, inverse, length
        shared, any_of, alone = kind, kind, kind & SINGLE
        place, part = 0, np.uint64(0)
        while True:
            if place == MAX_POWER:
                total += part * power
                power *= POWERS[place]
                inverse *= INVERSES[place]
                place, part = 0, np.uint64(0)
            stream[length] = total + part * power
            part += np.uint64(codes[i]) * POWERS[place]
            place += 1
            length += 1
            i += 1
            if alone or i == n or not kinds[i] & (WORD | MARK) or kinds[i] & SINGLE:
                break
            shared &= kinds[i]
            any_of |= kinds[i]
        total += part * power
        power *= POWERS[place]
        inverse *= INVERSES[place]
        all_kinds[w] = (shared & 0xFF) | (any_of & 0xFF) << 8
        w += 1
    sums[w], stream[length], chars[w] = total, total, length
    return w


@kernel("int64(uint16[::1], int64)")
def count_singles(kinds: UInt16Array, n: int) -> int:
    """How many characters are words of their own."""
    singles = 0
    for i in range(n):
        singles += (kinds[i] & SINGLE) != 0
    return singles


@kernel("void(int64[::1], uint16[::1], int64, float64[::1])")
def word_signals(chars: Int64Array, all_kinds: UInt16Array, num_words: int, row: Float64Array) -> None:
    """What words are made of: their number, mean length, and shares with a letter and in capitals."""
    content, content_chars, alpha, caps = 0, 0, 0, 0
    for w in range(num_words):
        bits = all_kinds[w]
        if not bits & PUNCTUATION:
            content += 1
            content_chars += chars[w + 1] - chars[w]
        if bits & LETTER << 8:
            alpha += 1
        if bits & UPPER and chars[w + 1] - chars[w] > 1:
            caps += 1
    row[Column.num_words] = num_words
    row[Column.num_content_words] = content
    row[Column.mean_word_length] = content_chars / content if content else 0.0
    row[Column.alpha_word_ratio] = alpha / num_words if num_words else 0.0
    row[Column.caps_word_ratio] = caps / num_words if num_words else 0.0


@kernel("void(uint16[::1], int64, int64, float64[::1])")
def script_signals(kinds: UInt16Array, n: int, num_letters: int, row: Float64Array) -> None:
    """Shares of scripts among the letters."""
    scripts = np.zeros(NUM_SCRIPTS, np.int64)
    for i in range(n):
        if kinds[i] & LETTER:
            scripts[kinds[i] >> SHIFT] += 1
    shares = scripts / max(num_letters, 1)
    row[Column.latin_ratio], row[Column.han_ratio], row[Column.kana_ratio] = shares[1], shares[2], shares[3]
    row[Column.hangul_ratio], row[Column.cyrillic_ratio], row[Column.arabic_ratio] = shares[4], shares[5], shares[6]
    row[Column.other_script_ratio] = shares[0] + shares[7:].sum()


@kernel("void(uint32[::1], uint16[::1], int64, int64, float64[::1])")
def character_signals(codes: UInt32Array, kinds: UInt16Array, n: int, num_words: int, row: Float64Array) -> None:
    """Shares of classes and special characters, n > 0. Loops without a branch become vector instructions."""
    letters, digits, uppers, spaces, marks, foreign = 0, 0, 0, 0, 0, 0
    hashes, curly, sentences = 0, 0, 0
    for i in range(n):
        code, kind = codes[i], kinds[i]
        letters += (kind & LETTER) != 0
        digits += (kind & DIGIT) != 0
        uppers += (kind & UPPER) != 0
        spaces += (kind & SPACE) != 0
        marks += (kind & PUNCTUATION) != 0
        foreign += code > 0x7F
        hashes += code == 0x23
        curly += (code == 0x7B) | (code == 0x7D)
    for i in range(n - 1):
        sentences += ((kinds[i] & TERMINAL) != 0) & (((kinds[i + 1] & SPACE) != 0) | (codes[i] > 0x2FFF))
    sentences += kinds[n - 1] & TERMINAL != 0
    row[Column.num_chars], row[Column.num_sentences] = n, sentences
    row[Column.hash_word_ratio] = hashes / max(num_words, 1)
    row[Column.letter_ratio], row[Column.digit_ratio], row[Column.space_ratio] = letters / n, digits / n, spaces / n
    row[Column.punctuation_ratio], row[Column.curly_bracket_ratio] = marks / n, curly / n
    row[Column.upper_ratio] = uppers / max(letters, 1)
    row[Column.latin_ratio] = 1.0 if letters else 0.0
    if foreign:
        script_signals(kinds, n, letters, row)


@kernel("void(uint32[::1], uint16[::1], int64, int64, float64[::1])")
def run_signals(codes: UInt32Array, kinds: UInt16Array, n: int, num_words: int, row: Float64Array) -> None:
    """What needs to know what stood before: ellipses, and the longest run without space."""
    dots, ellipses, start, longest = 0, 0, 0, 0
    for i in range(n):
        start = i + 1 if kinds[i] & SPACE else start
        longest = max(longest, i + 1 - start)
    for i in range(n):
        if codes[i] == 0x2E:
            dots = dots + 1 if i and codes[i - 1] == 0x2E else 1
            if dots == 3:
                ellipses += 1
                dots = 0
        ellipses += codes[i] == 0x2026
    row[Column.max_token_length] = longest
    row[Column.ellipsis_word_ratio] = ellipses / max(num_words, 1)


@kernel(
    "void(uint64[::1], uint64[::1], int64[::1], uint16[::1], int64, uint64[::1], int64[::1], uint64[::1], int64[::1],"
    " int64[:, ::1], float64[::1])"
)
def vocabulary_signals(
    sums: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    all_kinds: UInt16Array,
    num_words: int,
    keys: UInt64Array,
    counts: Int64Array,
    stop_keys: UInt64Array,
    stop_lists: Int64Array,
    stop_found: Int64Array,
    row: Float64Array,
) -> None:
    """How the words repeat: share of distinct ones, entropy in nats, share of the most frequent long one, stop words.

    stop_keys: uint64 [size, a power of two], an open-addressing table, 0 where free; bit l of stop_lists is list l;
    added to stop_found: its distinct words ([0, l]) and their occurrences ([1, l]).
    """
    size = clear_table(keys, num_words)
    mask, stop_mask = np.uint64(size - 1), np.uint64(len(stop_keys) - 1)
    distinct, top = 0, 0
    for w in range(num_words):
        key = mix((sums[w + 1] - sums[w]) * inverses[w]) | ONE
        slot = (key >> SLOT_SHIFT) & mask
        while keys[slot] != 0 and keys[slot] != key:
            slot = (slot + ONE) & mask
        counts[slot] = counts[slot] + 1 if keys[slot] == key else 1
        distinct += keys[slot] == 0
        keys[slot] = key
        if all_kinds[w] & LETTER << 8 and chars[w + 1] - chars[w] > 3:
            top = max(top, counts[slot])
    weighted = 0.0
    for used in range(size):
        if keys[used] == 0:
            continue
        count = counts[used]
        weighted += WEIGHTED[count] if count < len(WEIGHTED) else count * math.log(count)
        slot = (keys[used] >> SLOT_SHIFT) & stop_mask
        while stop_keys[slot] != 0 and stop_keys[slot] != keys[used]:
            slot = (slot + ONE) & stop_mask
        if stop_keys[slot] != 0:
            for listed in range(stop_found.shape[1]):
                on = stop_lists[slot] >> listed & 1
                stop_found[0, listed] += on
                stop_found[1, listed] += on * count
    row[Column.unique_word_ratio] = distinct / max(num_words, 1)
    row[Column.word_entropy] = math.log(num_words) - weighted / num_words if num_words else 0.0
    row[Column.top_word_ratio] = top / max(num_words, 1)


@kernel(
    "void(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), int64, int64, uint16[::1],"
    " uint64[::1], int64[::1], float64[:, ::1], int64[:, :, ::1])"
)
def measure(
    data: UInt8Array,
    offsets: Int64Array,
    first: int,
    last: int,
    table: UInt16Array,
    stop_keys: UInt64Array,
    stop_lists: Int64Array,
    rows: Float64Array,
    stop_found: Int64Array,
) -> None:
    """Measure documents first..last-1 into rows[first:last] ([documents, NUM_COLUMNS], zeros where a text is empty).

    stop_found: int64 [documents, 2, lists], zeros. Scratch memory: about 100 bytes per character of the longest text.
    """
    longest = 1
    for d in range(first, last):
        longest = max(longest, offsets[d + 1] - offsets[d])
    codes, kinds = np.empty(longest, np.uint32), np.empty(longest, np.uint16)
    sums, inverses = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    word_sums, chars = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    all_kinds = np.empty(longest + 1, np.uint16)
    keys, counts = np.empty(4 * longest + 4, np.uint64), np.empty(4 * longest + 4, np.int64)
    places, slots = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    stream = np.empty(longest + 1, np.uint64)
    breaks = np.empty(longest + 1, np.int64)
    for d in range(first, last):
        row = rows[d]
        row[Column.num_bytes] = offsets[d + 1] - offsets[d]
        n = decode_text(data, offsets[d], offsets[d + 1], table, codes, kinds)
        if n == 0:
            continue
        w = split_words(codes, kinds, n, sums, stream, inverses, chars, all_kinds)
        word_signals(chars, all_kinds, w, row)
        character_signals(codes, kinds, n, w, row)
        run_signals(codes, kinds, n, w, row)
        splitline_signals(codes, kinds, n, breaks, row)
        newlines = find_newlines(codes, n, breaks)
        line_signals(codes, kinds, n, breaks, newlines, w, keys, row)
        paragraph_signals(codes, kinds, n, breaks, newlines, keys, row)
        vocabulary_signals(sums, inverses, chars, all_kinds, w, keys, counts, stop_keys, stop_lists, stop_found[d], row)
        single = 2 * count_singles(kinds, n) > w
        repetition_signals(sums, stream, inverses, chars, w, n, single, word_sums, keys, counts, places, slots, row)
        link_signals(codes, kinds, n, row)


@kernel("uint64(uint32[::1])")
def word_key(codes: UInt32Array) -> np.uint64:
    """The key of one word in the table of stop words, never 0."""
    return mix(polynomial(codes, 0, len(codes))) | ONE
