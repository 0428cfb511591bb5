"""Compiled loops that mark the few places where something that identifies a person may stand, for pii.py to look at."""

from typing import Any

import numpy as np

from tasks.curation.compiled import kernel
from tasks.curation.text.words import BYTES, OFFSETS


@kernel("boolean(uint8)", inline="always")
def _in_address(byte: Any) -> Any:
    lower = byte | 0x20
    return (
        0x61 <= lower <= 0x7A
        or 0x30 <= byte <= 0x39
        or byte == 0x2E
        or byte == 0x2D
        or byte == 0x5F
        or byte == 0x2B
        or byte == 0x25
    )


@kernel(f"Tuple((int64, boolean))({BYTES}, int64, int64)")
def _number(data: Any, i: int, end: int) -> Any:
    """Where the last digit of the number at i ends, and whether it has enough of them to look at it."""
    j, last, digits, dots, gap = i, i, 0, 0, 0
    while j < end and gap < 3:
        byte, size = np.int64(data[j]), 1
        if byte == 0xEF and data[j + 1] == 0xBC:  # full-width: U+FF01 stands for "!"
            byte, size = np.int64(data[j + 2]) - 0x60, 3
        if 0x30 <= byte <= 0x39:
            digits += 1
            gap = 0
            last = j + size
        elif byte == 0x20 or byte == 0x28 or byte == 0x29 or byte == 0x2B or byte == 0x2D or byte == 0x2E:
            gap += 1
            dots += byte == 0x2E
        elif (byte | 0x20) == 0x78 and digits >= 17:
            last = j + size
        else:
            break
        j += size
    return last, digits >= 7 or (dots >= 3 and digits >= 4)


@kernel("boolean(uint8)", inline="always")
def _is_hex(byte: Any) -> Any:
    return 0x30 <= byte <= 0x39 or 0x61 <= byte | 0x20 <= 0x66


@kernel(f"int64({BYTES}, int64, int64, int64)")
def _address_end(data: Any, i: int, first: int, end: int) -> Any:
    """Where what may be an IPv6 address ends whose first ":" is at i; i where it is none."""
    start = i
    while start > first and start > i - 5 and _is_hex(data[start - 1]):
        start -= 1
    head = data[start]
    if i - start != 4 or not (head == 0x32 or head == 0x33 or head | 0x20 == 0x66):
        return i
    j, colons = i, 0
    while j < end and (_is_hex(data[j]) or data[j] == 0x3A):
        colons += data[j] == 0x3A
        j += 1
    return j if colons >= 2 else i


@kernel(f"int64({BYTES}, {OFFSETS}, int64[:, ::1])")
def mark(data: Any, offsets: Any, out: Any) -> Any:
    """Write (row, begin, end), in bytes, of each run around an "@", with many digits, or that may be an address."""
    found = 0
    for row in range(len(offsets) - 1):
        i, end = offsets[row], offsets[row + 1]
        while i < end:
            byte = data[i]
            begin = stop = i
            if byte == 0x40:
                while begin > offsets[row] and _in_address(data[begin - 1]):
                    begin -= 1
                stop = i + 1
                while stop < end and _in_address(data[stop]):
                    stop += 1
                i, stop = stop, stop if begin < i and stop > i + 3 else begin
            elif 0x30 <= byte <= 0x39 or byte == 0x2B or byte == 0x28:
                last, enough = _number(data, i, end)
                if enough and not (last < end and data[last] == 0x40):
                    stop = last
                i = max(last, i + 1)
            elif byte == 0xEF and data[i + 1] == 0xBC and 0x90 <= data[i + 2] <= 0x99:
                last, enough = _number(data, i, end)
                stop, i = last if enough else begin, last
            elif byte == 0x3A:
                stop = _address_end(data, i, offsets[row], end)
                begin, i = (i - 4, stop) if stop > i else (stop, i + 1)
            else:
                i += 1
            if stop > begin:
                out[found, 0], out[found, 1], out[found, 2] = row, begin, stop
                found += 1
    return found
