"""The kernel of best-fit decreasing bin packing, with the result of `tokens.best_fit` as the start of every list.

Millions of lists need 40 bytes each, where Python's lists of rows would need several times as much.
"""

import numpy as np
import numpy.typing as npt

from tasks.compiled import kernel
from tasks.tokenization.patterns import Int64Array, Integer

INTS = "int64[::1]"
_U0, _U1, _WORD_BITS = np.uint64(0), np.uint64(1), 64


def best_fit_starts(lengths: Int64Array, capacity: int) -> tuple[Int64Array, int]:
    """Put lists into rows of `capacity` tokens; return where each starts in the concatenated rows, and how many rows.

    lengths: at most `capacity`, [num_lists]. The order and the rows are those of `tokens.best_fit`.
    """
    starts = np.zeros(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    return starts, int(_fit(np.ascontiguousarray(lengths, np.int64), order, capacity, starts))


@kernel("int64(uint64[::1], int64)")
def _next_space(is_used: npt.NDArray[np.uint64], space: Integer) -> Integer:
    """Return the smallest space, `space` or above, whose bit is set; -1 if there is none."""
    place = space // _WORD_BITS
    word = is_used[place] >> np.uint64(space % _WORD_BITS) << np.uint64(space % _WORD_BITS)
    while word == _U0:
        place += 1
        if place == len(is_used):
            return -1
        word = is_used[place]
    bit = 0
    while word & _U1 == _U0:
        word >>= _U1
        bit += 1
    return place * _WORD_BITS + bit


@kernel(f"int64({INTS}, {INTS}, int64, {INTS})")
def _fit(lengths: Int64Array, order: Int64Array, capacity: Integer, starts: Int64Array) -> Integer:
    """Fill `starts` in the order of the lists, the longest first; return the number of rows.

    Rows with the same space are a stack: top[space] is the last of them, and below[row] the one before, or -1.
    """
    is_used = np.zeros(capacity // _WORD_BITS + 1, np.uint64)
    top, below = np.full(capacity + 1, -1), np.empty(len(lengths), np.int64)
    num_rows = 0
    for index in order:
        length = lengths[index]
        space = _next_space(is_used, max(length, 1))
        if space < 0:
            row, space = num_rows, capacity
            num_rows += 1
        else:
            row = top[space]
            top[space] = below[row]
            if top[space] < 0:
                is_used[space // _WORD_BITS] &= ~(_U1 << np.uint64(space % _WORD_BITS))
        starts[index] = (row + 1) * capacity - space
        rest = space - length
        if rest > 0:
            below[row], top[rest] = top[rest], row
            is_used[rest // _WORD_BITS] |= _U1 << np.uint64(rest % _WORD_BITS)
    return num_rows
