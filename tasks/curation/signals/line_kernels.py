"""Compiled loops over lines and paragraphs, each split as its rule demands (Gopher, arXiv:2112.11446; FineWeb).

Two lines count as equal if their 64-bit hashes are equal.
"""

import numpy as np

from tasks.compiled import kernel
from tasks.curation.arrays import Float64Array, Int64Array, UInt16Array, UInt32Array, UInt64Array
from tasks.curation.signals.columns import Column
from tasks.curation.signals.repetition_kernels import ONE, clear_table, insert_if_new, mix, polynomial
from tasks.curation.text import characters

SPACE, TERMINAL, LINE_BREAK = characters.SPACE, characters.TERMINAL, characters.LINE_BREAK
DIGIT, UPPER, CLOSING = characters.DIGIT, characters.UPPER, characters.CLOSING
SHORT_LINE = 30  # characters; FineWeb's short_line_length
# Code points. A kernel cannot call ord().
_NEWLINE, _RETURN, _HYPHEN, _DOT, _BULLET, _ELLIPSIS = 0x0A, 0x0D, 0x2D, 0x2E, 0x2022, 0x2026
_COMMA, _SEMICOLON, _IDEOGRAPHIC_COMMA, _WIDE_COMMA, _WIDE_SEMICOLON = 0x2C, 0x3B, 0x3001, 0xFF0C, 0xFF1B


@kernel("int64(uint32[::1], int64, int64[::1])")
def find_newlines(codes: UInt32Array, n: int, breaks: Int64Array) -> int:
    r"""Write the positions of "\n", followed by n, to `breaks` (n + 1 entries); return the number of "\n"."""
    count = 0
    for i in range(n):
        # Writing every position, and advancing only at a newline, avoids a branch that the processor cannot predict.
        breaks[count] = i
        count += codes[i] == _NEWLINE
    breaks[count] = n
    return count


@kernel("boolean(uint32[::1], int64, int64, int64)")
def is_chinese_ellipsis(codes: UInt32Array, start: int, end: int, last: int) -> bool:
    """Return whether codes[last], an ellipsis in codes[start:end], is the last of exactly two, which is a Chinese mark.

    The mark "……" ends a sentence or stands for a pause, as a full stop or a dash does; it does not mean that text was
    left out.
    """
    first = last
    while first > start and codes[first - 1] == _ELLIPSIS:
        first -= 1
    return last - first == 1 and (last + 1 == end or codes[last + 1] != _ELLIPSIS)


@kernel("boolean(uint32[::1], uint16[::1], int64, int64)")
def ends_sentence(codes: UInt32Array, classes: UInt16Array, start: int, end: int) -> bool:
    """Return whether codes[start:end] ends with a mark that ends a sentence, or an ellipsis.

    Closing quotes, brackets and white space may follow the mark.
    """
    while end > start and classes[end - 1] & (CLOSING | SPACE):
        end -= 1
    return end > start and (classes[end - 1] & TERMINAL != 0 or codes[end - 1] == _ELLIPSIS)


@kernel("boolean(uint32[::1], uint16[::1], int64, int64)")
def ends_clause(codes: UInt32Array, classes: UInt16Array, start: int, end: int) -> bool:
    """Return whether codes[start:end] ends with a comma or semicolon, as lines of verse do, before closing marks."""
    while end > start and classes[end - 1] & (CLOSING | SPACE):
        end -= 1
    code = codes[end - 1] if end > start else 0
    return code in (_COMMA, _SEMICOLON, _IDEOGRAPHIC_COMMA, _WIDE_COMMA, _WIDE_SEMICOLON)


@kernel("void(uint32[::1], uint16[::1], int64, int64[::1], float64[::1])")
def splitline_signals(codes: UInt32Array, classes: UInt16Array, n: int, breaks: Int64Array, row: Float64Array) -> None:
    """Measure lines as `str.splitlines` splits them: how many begin with a bullet, or end with an ellipsis.

    codes, classes: of `decode_text`, n > 0 characters; breaks: scratch memory of n + 1 entries.
    """
    count, lines, bullets, listed, ellipses, truncated, start = 0, 0, 0, 0, 0, 0, 0
    for i in range(n):
        breaks[count] = i
        count += classes[i] & LINE_BREAK != 0
    breaks[count] = n
    for line in range(count + 1):
        end = breaks[line]
        # There is no line after a final line break, and none between "\r" and "\n", which are one break together.
        if start == n or (end == start and start and codes[start] == _NEWLINE and codes[start - 1] == _RETURN):
            start = end + 1
            continue
        lines += 1
        first, last = start, end - 1
        while first < end and classes[first] & SPACE:
            first += 1
        while last > first and classes[last] & SPACE:
            last -= 1
        if first < end:
            if codes[first] == _BULLET or codes[first] == _HYPHEN:
                bullets += 1
                listed += not ends_sentence(codes, classes, start, end)
            dots = last - first >= 2 and codes[last] == _DOT and codes[last - 1] == _DOT and codes[last - 2] == _DOT
            mark = codes[last] == _ELLIPSIS
            ellipses += dots or mark
            truncated += dots or (mark and not is_chinese_ellipsis(codes, start, end, last))
        start = end + 1
    row[Column.num_lines] = lines
    row[Column.bullet_line_ratio] = bullets / lines
    row[Column.listed_line_ratio] = listed / lines
    row[Column.ellipsis_line_ratio] = ellipses / lines
    row[Column.truncated_line_ratio] = truncated / lines


@kernel("UniTuple(float64, 2)(uint16[::1], int64, int64)")
def _digit_and_upper_shares(classes: UInt16Array, start: int, end: int) -> tuple[float, float]:
    """Return the shares of digits and of capitals among the characters start..end-1, of which there is at least one."""
    digits, uppers = 0, 0
    for i in range(start, end):
        digits += (classes[i] & DIGIT) != 0
        uppers += (classes[i] & UPPER) != 0
    return digits / (end - start), uppers / (end - start)


@kernel("void(uint32[::1], uint16[::1], int64, int64[::1], int64, int64, uint64[::1], float64[::1])")
def line_signals(
    codes: UInt32Array,
    classes: UInt16Array,
    n: int,
    breaks: Int64Array,
    newlines: int,
    num_words: int,
    keys: UInt64Array,
    row: Float64Array,
) -> None:
    r"""Measure lines split at "\n". Gopher counts the parts between runs of "\n", FineWeb the lines that are not blank.

    breaks, newlines: of `find_newlines`; keys: scratch memory for a hash table.
    """
    mask = np.uint64(clear_table(keys, newlines + 1) - 1)
    parts, duplicates, duplicate_chars = 0, 0, 0
    filled, filled_duplicates, filled_chars, terminal, sentences, short = 0, 0, 0, 0, 0, 0
    open_lines, is_open, digits, uppers, start = 0, False, 0.0, 0.0, 0
    for line in range(newlines + 1):
        end = breaks[line]
        length = end - start
        if length:
            parts += 1
            # Key 0 means a free slot, so the lowest bit of every key is set.
            is_repeat = not insert_if_new(mix(polynomial(codes, start, end)) | ONE, keys, mask)
            duplicates += is_repeat
            duplicate_chars += length if is_repeat else 0
            while start < end and classes[start] & SPACE:
                start += 1
            if start < end:
                filled += 1
                shares = _digit_and_upper_shares(classes, end - length, end)
                digits += shares[0]
                uppers += shares[1]
                terminal += classes[end - 1] & TERMINAL != 0
                # The newline after the last line separates nothing, so that a line counts when the next one begins.
                open_lines += is_open
                is_sentence = ends_sentence(codes, classes, start, end)
                sentences += is_sentence
                is_open = not is_sentence and not ends_clause(codes, classes, start, end)
                filled_duplicates += is_repeat
                short += length <= SHORT_LINE
                filled_chars += length if is_repeat else 0
        start = end + 1
    # Gopher splits by the regular expression "\n+", which gives an empty part before a newline at the start of the text
    # and one after a newline at its end. If there are both, the second is a duplicate of the first.
    empty_parts = (codes[0] == _NEWLINE) + (codes[n - 1] == _NEWLINE)
    row[Column.duplicate_line_ratio] = (duplicates + (empty_parts == 2)) / (parts + empty_parts)
    row[Column.duplicate_line_char_ratio] = duplicate_chars / n
    row[Column.duplicate_filled_line_char_ratio] = filled_chars / (n - newlines) if n > newlines else 0.0
    row[Column.num_filled_lines] = filled
    row[Column.duplicate_filled_line_ratio] = filled_duplicates / max(filled, 1)
    row[Column.terminal_line_ratio] = terminal / max(filled, 1)
    row[Column.sentence_line_ratio] = sentences / max(filled, 1)
    row[Column.short_line_ratio] = short / max(filled, 1)
    row[Column.newline_word_ratio] = newlines / max(num_words, 1)
    row[Column.open_newline_word_ratio] = open_lines / max(num_words, 1)
    row[Column.mean_line_words] = num_words / max(filled, 1)
    row[Column.mean_line_digit_ratio] = digits / max(filled, 1)
    row[Column.mean_line_upper_ratio] = uppers / max(filled, 1)


@kernel("void(uint32[::1], uint16[::1], int64, int64[::1], int64, uint64[::1], float64[::1])")
def paragraph_signals(
    codes: UInt32Array,
    classes: UInt16Array,
    n: int,
    breaks: Int64Array,
    newlines: int,
    keys: UInt64Array,
    row: Float64Array,
) -> None:
    r"""Measure paragraphs: the text without outer space, split at runs of at least two "\n" (Gopher).

    Arguments as in `line_signals`.
    """
    first, end = 0, n
    while first < n and classes[first] & SPACE:
        first += 1
    while end > first and classes[end - 1] & SPACE:
        end -= 1
    mask = np.uint64(clear_table(keys, newlines + 1) - 1)
    paragraphs, duplicates, duplicate_chars = 0, 0, 0
    start, line = first, 0
    while start <= end:
        # The next paragraph ends at the next newline that another newline follows directly.
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
