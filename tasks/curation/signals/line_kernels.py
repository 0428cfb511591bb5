"""Compiled loops over lines and paragraphs, each cut where its rule cuts: Gopher (arXiv:2112.11446), FineWeb.

Equality of lines is equality of 64-bit hashes.
"""

import numpy as np

from tasks.curation.arrays import Float64Array, Int64Array, UInt16Array, UInt32Array, UInt64Array
from tasks.curation.compiled import kernel
from tasks.curation.signals.columns import Column
from tasks.curation.signals.repetition_kernels import ONE, clear_table, insert_if_new, mix, polynomial
from tasks.curation.text import characters

SPACE, TERMINAL, LINE_BREAK = characters.SPACE, characters.TERMINAL, characters.LINE_BREAK
DIGIT, UPPER = characters.DIGIT, characters.UPPER
SHORT_LINE = 30  # characters; FineWeb's short_line_length
_NEWLINE = 0x0A


@kernel("int64(uint32[::1], int64, int64[::1])")
def find_newlines(codes: UInt32Array, n: int, breaks: Int64Array) -> int:
    r"""Write the places of "\n" and, behind them, n; the number of "\n"."""
    count = 0
    for i in range(n):
        breaks[count] = i
        count += codes[i] == _NEWLINE
    breaks[count] = n
    return count


@kernel("void(uint32[::1], uint16[::1], int64, int64[::1], float64[::1])")
def splitline_signals(codes: UInt32Array, kinds: UInt16Array, n: int, breaks: Int64Array, row: Float64Array) -> None:
    """Lines as `str.splitlines` cuts them: how many begin with a bullet or end with an ellipsis. breaks: scratch."""
    count, lines, bullets, ellipses, start = 0, 0, 0, 0, 0
    for i in range(n):
        breaks[count] = i
        count += kinds[i] & LINE_BREAK != 0
    breaks[count] = n
    for line in range(count + 1):
        end = breaks[line]
        if start == n or (end == start and start and codes[start] == _NEWLINE and codes[start - 1] == 0x0D):
            start = end + 1
            continue
        lines += 1
        first, last = start, end - 1
        while first < end and kinds[first] & SPACE:
            first += 1
        while last > first and kinds[last] & SPACE:
            last -= 1
        if first < end:
            bullets += codes[first] == 0x2022 or codes[first] == 0x2D
            dots = last - first >= 2 and codes[last] == 0x2E and codes[last - 1] == 0x2E and codes[last - 2] == 0x2E
            ellipses += dots or codes[last] == 0x2026
        start = end + 1
    row[Column.num_lines] = lines
    row[Column.bullet_line_ratio] = bullets / lines
    row[Column.ellipsis_line_ratio] = ellipses / lines


@kernel("UniTuple(float64, 2)(uint16[::1], int64, int64)")
def _shares(kinds: UInt16Array, start: int, end: int) -> tuple[float, float]:
    """Shares of digits and of capitals among some characters, at least one."""
    digits, uppers = 0, 0
    for i in range(start, end):
        digits += (kinds[i] & DIGIT) != 0
        uppers += (kinds[i] & UPPER) != 0
    return digits / (end - start), uppers / (end - start)


@kernel("void(uint32[::1], uint16[::1], int64, int64[::1], int64, int64, uint64[::1], float64[::1])")
def line_signals(
    codes: UInt32Array,
    kinds: UInt16Array,
    n: int,
    breaks: Int64Array,
    newlines: int,
    num_words: int,
    keys: UInt64Array,
    row: Float64Array,
) -> None:
    r"""Lines cut at "\n". Gopher counts those between runs of "\n", FineWeb those that hold more than space."""
    mask = np.uint64(clear_table(keys, newlines + 1) - 1)
    pieces, duplicates, duplicate_chars = 0, 0, 0
    filled, filled_chars, terminal, short = 0, 0, 0, 0
    digits, uppers, start = 0.0, 0.0, 0
    for line in range(newlines + 1):
        end = breaks[line]
        length = end - start
        if length:
            pieces += 1
            repeated = not insert_if_new(mix(polynomial(codes, start, end)) | ONE, keys, mask)
            duplicates += repeated
            duplicate_chars += length if repeated else 0
            while start < end and kinds[start] & SPACE:
                start += 1
            if start < end:
                filled += 1
                shares = _shares(kinds, end - length, end)
                digits += shares[0]
                uppers += shares[1]
                terminal += kinds[end - 1] & TERMINAL != 0
                short += length <= SHORT_LINE
                filled_chars += length if repeated else 0
        start = end + 1
    ends = (codes[0] == _NEWLINE) + (codes[n - 1] == _NEWLINE)  # a run of "\n" at an end leaves an empty piece there
    row[Column.duplicate_line_ratio] = (duplicates + (ends == 2)) / (pieces + ends)
    row[Column.duplicate_line_char_ratio] = duplicate_chars / n
    row[Column.duplicate_filled_line_char_ratio] = filled_chars / (n - newlines) if n > newlines else 0.0
    row[Column.terminal_line_ratio] = terminal / filled if filled else 0.0
    row[Column.short_line_ratio] = short / filled if filled else 0.0
    row[Column.newline_word_ratio] = newlines / max(num_words, 1)
    row[Column.mean_line_words] = num_words / max(filled, 1)
    row[Column.mean_line_digit_ratio] = digits / max(filled, 1)
    row[Column.mean_line_upper_ratio] = uppers / max(filled, 1)


@kernel("void(uint32[::1], uint16[::1], int64, int64[::1], int64, uint64[::1], float64[::1])")
def paragraph_signals(
    codes: UInt32Array,
    kinds: UInt16Array,
    n: int,
    breaks: Int64Array,
    newlines: int,
    keys: UInt64Array,
    row: Float64Array,
) -> None:
    r"""Paragraphs of the stripped text, cut at runs of at least two "\n" (Gopher)."""
    first, end = 0, n
    while first < n and kinds[first] & SPACE:
        first += 1
    while end > first and kinds[end - 1] & SPACE:
        end -= 1
    mask = np.uint64(clear_table(keys, newlines + 1) - 1)
    paragraphs, duplicates, duplicate_chars = 0, 0, 0
    start, line = first, 0
    while start <= end:
        while line < newlines and (breaks[line] < start or breaks[line + 1] != breaks[line] + 1):
            line += 1
        stop = min(breaks[line], end) if line < newlines else end
        paragraphs += 1
        if not insert_if_new(mix(polynomial(codes, start, stop)) | ONE, keys, mask):
            duplicates += 1
            duplicate_chars += stop - start
        start = stop
        while start < end and codes[start] == _NEWLINE:
            start += 1
        if start == end:
            break
    row[Column.num_paragraphs] = paragraphs
    row[Column.duplicate_paragraph_ratio] = duplicates / paragraphs
    row[Column.duplicate_paragraph_char_ratio] = duplicate_chars / n
