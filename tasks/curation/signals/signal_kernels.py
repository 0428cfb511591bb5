"""Compiled loops from UTF-8 bytes to code points with their classes, to words, to one row of signals per document.

They read the buffers of Arrow's strings (offsets int64, data uint8), create no Python object, and release the GIL.
A word is one Han or Kana character, or a run of letters, digits, "_" and combining marks that begins with no mark.
"""

import math

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Float64Array, Int64Array, UInt8Array, UInt16Array, UInt32Array, UInt64Array
from tasks.curation.signals.columns import Column
from tasks.curation.signals.line_kernels import (
    find_newlines,
    is_chinese_ellipsis,
    line_signals,
    paragraph_signals,
    splitline_signals,
)
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
N_LOG_N = np.array([0.0, *(count * math.log(count) for count in range(1, 256))])  # for the entropy of words
NUM_COLUMNS = len(Column)

_DECODE = "int64(Array(uint8, 1, 'C', readonly=True), int64, int64, uint16[::1], uint32[::1], uint16[::1])"


@kernel(_DECODE)
def decode_text(
    data: UInt8Array, start: int, end: int, table: UInt16Array, codes: UInt32Array, classes: UInt16Array
) -> int:
    """Write the code points of data[start:end] to `codes` and their class bits to `classes`; return their number.

    table: `characters.class_table`. The text must be valid UTF-8, as Arrow's strings are.
    """
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
        classes[n] = table[code] if code < TABLE_SIZE else (HAN_BEYOND if code < HAN_END else 0)
        n += 1
    return n


@kernel("int64(uint32[::1], uint16[::1], int64, uint64[::1], uint64[::1], uint64[::1], int64[::1], uint16[::1])")
def split_words(
    codes: UInt32Array,
    classes: UInt16Array,
    n: int,
    sums: UInt64Array,
    stream: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    word_classes: UInt16Array,
) -> int:
    """Find the words of a text, and return their number.

    Imagine the words written one after another without spaces. Word w then begins at character chars[w]; stream[c] is
    the sum of code * BASE**position over the characters before c, sums[w] the same before word w, and inverses[w] is
    BASE**-chars[w]. So the hash of the words i..j is (sums[j + 1] - sums[i]) * inverses[i], modulo 2^64: it does not
    depend on where they are, and costs one multiplication for any i and j.
    word_classes[w]: in the low byte the class bits that all its characters share, in the high byte those of any.
    """
    i, w, length = 0, 0, 0
    total, power, inverse = np.uint64(0), ONE, ONE
    while i < n:
        bits = classes[i]
        if not bits & WORD:
            i += 1
            continue
        sums[w], inverses[w], chars[w] = total, inverse, length
        shared, any_of, is_single = bits, bits, bits & SINGLE
        # Within a word, only table lookups are needed. The powers at the begin of the word are updated once per word,
        # or after MAX_POWER characters, where the tables end.
        position, part = 0, np.uint64(0)
        while True:
            if position == MAX_POWER:
                total += part * power
                power *= POWERS[position]
                inverse *= INVERSES[position]
                position, part = 0, np.uint64(0)
            stream[length] = total + part * power
            part += np.uint64(codes[i]) * POWERS[position]
            position += 1
            length += 1
            i += 1
            if is_single or i == n or not classes[i] & (WORD | MARK) or classes[i] & SINGLE:
                break
            shared &= classes[i]
            any_of |= classes[i]
        total += part * power
        power *= POWERS[position]
        inverse *= INVERSES[position]
        word_classes[w] = (shared & 0xFF) | (any_of & 0xFF) << 8
        w += 1
    sums[w], stream[length], chars[w] = total, total, length
    return w


@kernel("int64(uint16[::1], int64)")
def count_singles(classes: UInt16Array, n: int) -> int:
    """Return how many characters are words by themselves (Han and Kana)."""
    singles = 0
    for i in range(n):
        singles += (classes[i] & SINGLE) != 0
    return singles


@kernel("void(int64[::1], uint16[::1], int64, float64[::1])")
def word_signals(chars: Int64Array, word_classes: UInt16Array, num_words: int, row: Float64Array) -> None:
    """Measure the number of words, their mean length, and the shares of words with a letter and in capitals.

    chars, word_classes: of `split_words`.
    """
    content, content_chars, prose, prose_chars, alpha, caps = 0, 0, 0, 0, 0, 0
    for w in range(num_words):
        bits, length = word_classes[w], chars[w + 1] - chars[w]
        if not bits & PUNCTUATION:  # "_" alone is punctuation, and no content
            content += 1
            content_chars += length
            if length > 1 and not bits & DIGIT:
                prose += 1
                prose_chars += length
        if bits & LETTER << 8:
            alpha += 1
        if bits & UPPER and chars[w + 1] - chars[w] > 1:
            caps += 1
    row[Column.num_words] = num_words
    row[Column.num_content_words] = content
    row[Column.mean_word_length] = content_chars / content if content else 0.0
    # Where most words are numbers or single characters (Chinese, or letters with spaces between them), all words count.
    row[Column.mean_prose_word_length] = prose_chars / prose if 2 * prose > content else row[Column.mean_word_length]
    row[Column.alpha_word_ratio] = alpha / num_words if num_words else 0.0
    row[Column.caps_word_ratio] = caps / num_words if num_words else 0.0


@kernel("void(uint16[::1], int64, int64, float64[::1])")
def script_signals(classes: UInt16Array, n: int, num_letters: int, row: Float64Array) -> None:
    """Measure the shares of scripts among the letters."""
    scripts = np.zeros(NUM_SCRIPTS, np.int64)
    for i in range(n):
        if classes[i] & LETTER:
            scripts[classes[i] >> SHIFT] += 1
    shares = scripts / max(num_letters, 1)
    # The indices are positions in characters.SCRIPTS.
    row[Column.japanese_han_ratio], row[Column.chinese_han_ratio] = shares[11], shares[12]
    row[Column.latin_ratio], row[Column.kana_ratio] = shares[1], shares[3]
    row[Column.han_ratio] = shares[2] + shares[11] + shares[12]
    row[Column.hangul_ratio], row[Column.cyrillic_ratio], row[Column.arabic_ratio] = shares[4], shares[5], shares[6]
    row[Column.other_script_ratio] = shares[0] + shares[7:11].sum()


@kernel("void(uint32[::1], uint16[::1], int64, int64, float64[::1])")
def character_signals(codes: UInt32Array, classes: UInt16Array, n: int, num_words: int, row: Float64Array) -> None:
    """Measure the shares of classes and of special characters, and count sentences; n > 0 characters.

    A mark ends a sentence if space or the end of the text follows, or if it is a CJK mark (above U+2FFF), after which
    no space is written.
    """
    # These loops have no branch, so that the compiler turns them into vector instructions. Hence `&` instead of `and`.
    letters, digits, uppers, spaces, marks, non_ascii = 0, 0, 0, 0, 0, 0
    hashes, curly, sentences = 0, 0, 0
    for i in range(n):
        code, bits = codes[i], classes[i]
        letters += (bits & LETTER) != 0
        digits += (bits & DIGIT) != 0
        uppers += (bits & UPPER) != 0
        spaces += (bits & SPACE) != 0
        marks += (bits & PUNCTUATION) != 0
        non_ascii += code > 0x7F
        hashes += code == 0x23
        curly += (code == 0x7B) | (code == 0x7D)
    for i in range(n - 1):
        sentences += ((classes[i] & TERMINAL) != 0) & (((classes[i + 1] & SPACE) != 0) | (codes[i] > 0x2FFF))
    sentences += classes[n - 1] & TERMINAL != 0
    row[Column.num_chars], row[Column.num_sentences] = n, sentences
    row[Column.hash_word_ratio] = hashes / max(num_words, 1)
    row[Column.letter_ratio], row[Column.digit_ratio], row[Column.space_ratio] = letters / n, digits / n, spaces / n
    row[Column.punctuation_ratio], row[Column.curly_bracket_ratio] = marks / n, curly / n
    row[Column.upper_ratio] = uppers / max(letters, 1)
    row[Column.latin_ratio] = 1.0 if letters else 0.0  # all letters of ASCII are Latin
    if non_ascii:
        script_signals(classes, n, letters, row)


@kernel("void(uint32[::1], uint16[::1], int64, int64, float64[::1])")
def run_signals(codes: UInt32Array, classes: UInt16Array, n: int, num_words: int, row: Float64Array) -> None:
    """Measure what depends on the characters before: ellipses, and the longest run without space."""
    dots, ellipses, chinese, start, longest = 0, 0, 0, 0, 0
    for i in range(n):
        start = i + 1 if classes[i] & SPACE else start
        longest = max(longest, i + 1 - start)
    for i in range(n):
        if codes[i] == 0x2E:
            dots = dots + 1 if i and codes[i - 1] == 0x2E else 1
            if dots == 3:
                ellipses += 1
                dots = 0
        if codes[i] == 0x2026:
            ellipses += 1
            chinese += (i + 1 == n or codes[i + 1] != 0x2026) and is_chinese_ellipsis(codes, 0, n, i)
    row[Column.max_token_length] = longest
    row[Column.ellipsis_word_ratio] = ellipses / max(num_words, 1)
    row[Column.omission_word_ratio] = (ellipses - 2 * chinese) / max(num_words, 1)


@kernel(
    "void(uint64[::1], uint64[::1], int64[::1], uint16[::1], int64, uint64[::1], int64[::1], uint64[::1], int64[::1],"
    " int64[:, ::1], float64[::1])"
)
def vocabulary_signals(
    sums: UInt64Array,
    inverses: UInt64Array,
    chars: Int64Array,
    word_classes: UInt16Array,
    num_words: int,
    keys: UInt64Array,
    counts: Int64Array,
    stop_keys: UInt64Array,
    stop_lists: Int64Array,
    stop_counts: Int64Array,
    row: Float64Array,
) -> None:
    """Measure the share of distinct words, the entropy in nats, the share of the top long word, and count stop words.

    stop_keys, stop_lists: a hash table with open addressing, whose size is a power of two. Key 0 means a free slot;
    bit l of stop_lists says that the word is in list l. The number of distinct words of list l is added to
    stop_counts[0, l], that of their occurrences to stop_counts[1, l].
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
        if word_classes[w] & LETTER << 8 and chars[w + 1] - chars[w] > 3:
            top = max(top, counts[slot])
    # Entropy: -sum(c/n * log(c/n)) = log n - sum(c * log c) / n, over the counts c of all words.
    weighted = 0.0
    for used in range(size):
        if keys[used] == 0:
            continue
        count = counts[used]
        weighted += N_LOG_N[count] if count < len(N_LOG_N) else count * math.log(count)
        slot = (keys[used] >> SLOT_SHIFT) & stop_mask
        while stop_keys[slot] != 0 and stop_keys[slot] != keys[used]:
            slot = (slot + ONE) & stop_mask
        if stop_keys[slot] != 0:
            for listed in range(stop_counts.shape[1]):
                on = stop_lists[slot] >> listed & 1
                stop_counts[0, listed] += on
                stop_counts[1, listed] += on * count
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
    stop_counts: Int64Array,
) -> None:
    """Measure the documents first..last-1 into rows[first:last] ([documents, NUM_COLUMNS], zeros for an empty text).

    data, offsets: of `signals.string_buffers`; table: `characters.class_table`; stop_keys, stop_lists: see
    `vocabulary_signals`; stop_counts: int64 [documents, 2, lists], zeros. Scratch memory, about 100 bytes per byte of
    the longest text, is allocated once for all documents.
    """
    longest = 1
    for d in range(first, last):
        longest = max(longest, offsets[d + 1] - offsets[d])
    codes, classes = np.empty(longest, np.uint32), np.empty(longest, np.uint16)
    sums, inverses = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    word_sums, chars = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.int64)
    word_classes = np.empty(longest + 1, np.uint16)
    keys, counts = np.empty(4 * longest + 4, np.uint64), np.empty(4 * longest + 4, np.int64)
    starts, slots = np.empty(longest + 1, np.int64), np.empty(longest + 1, np.int64)
    stream = np.empty(longest + 1, np.uint64)
    breaks = np.empty(longest + 1, np.int64)
    for d in range(first, last):
        row = rows[d]
        row[Column.num_bytes] = offsets[d + 1] - offsets[d]
        n = decode_text(data, offsets[d], offsets[d + 1], table, codes, classes)
        if n == 0:
            continue
        w = split_words(codes, classes, n, sums, stream, inverses, chars, word_classes)
        word_signals(chars, word_classes, w, row)
        character_signals(codes, classes, n, w, row)
        run_signals(codes, classes, n, w, row)
        splitline_signals(codes, classes, n, breaks, row)
        newlines = find_newlines(codes, n, breaks)
        line_signals(codes, classes, n, breaks, newlines, w, keys, row)
        paragraph_signals(codes, classes, n, breaks, newlines, keys, row)
        vocabulary_signals(
            sums, inverses, chars, word_classes, w, keys, counts, stop_keys, stop_lists, stop_counts[d], row
        )
        single = 2 * count_singles(classes, n) > w
        repetition_signals(sums, stream, inverses, chars, w, n, single, word_sums, keys, counts, starts, slots, row)
        link_signals(codes, classes, n, row)


@kernel("uint64(uint32[::1])")
def word_key(codes: UInt32Array) -> np.uint64:
    """Return the key of one word in the table of stop words; it is never 0, which means a free slot."""
    return mix(polynomial(codes, 0, len(codes))) | ONE
