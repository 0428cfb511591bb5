"""From UTF-8 bytes to the hashes of tokens, read where Arrow keeps them: no Python object per text or word.

The contract (what keeps it can exchange keys with us):

- Every character is folded by `fold_table`. A token is a run of word characters, or one character of a script that
  is written without spaces. Everything else separates.
- The hash of a token: h = SEED; for each 8 bytes of its folded UTF-8, little-endian, zero-padded:
  h = (h ^ chunk) * STIR, then h ^= h >> 32; all modulo 2^64. At last its lowest bit is set for such a character and
  cleared for a word.

`tokens` and `token_hash` say the same in plain Python. ASCII is read 64 bytes at a time: all its word characters are
folded by `byte | 0x20`, and where words start and end is a question to one 64-bit mask.
"""

import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.curation.arrays import Int64Array, UInt8Array
from tasks.curation.compiled import kernel
from tasks.curation.text import folding
from tasks.curation.text.vectors import classes64, load64, trailing_zeros

SEED, STIR = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
MASK64 = (1 << 64) - 1
PADDING = 72  # bytes that the kernels may read behind a text
CHUNK_ROWS, CHUNK_BYTES = 4096, 1 << 20

Texts: TypeAlias = pa.Array | pa.ChunkedArray  # of strings

BYTES = "Array(uint8, 1, 'C', readonly=True)"  # signatures of kernels are written in numba's notation
OFFSETS = "Array(int64, 1, 'C', readonly=True)"
TABLE = "Array(uint32, 1, 'C', readonly=True)"
HASHES = "uint64[::1]"

_SEED, _STIR, _ALL = np.uint64(SEED), np.uint64(STIR), np.uint64(MASK64)
_U0, _U1, _U8, _U32, _U64 = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(32), np.uint64(64)
_WORD_BIT = np.uint64(MASK64 - 1)  # the lowest bit, cleared
_LOWER = np.uint64(0x2020202020202020)
_WORD, _SINGLE, _CODE = np.uint32(folding.WORD), np.uint32(folding.SINGLE), np.uint32(folding.CODE)
_SIZE = folding.SIZE


def token_hash(token: str) -> int:
    """The 64-bit hash of a folded token."""
    data = token.encode()
    h = SEED
    for start in range(0, len(data), 8):
        h = ((h ^ int.from_bytes(data[start : start + 8], "little")) * STIR) & MASK64
        h ^= h >> 32
    single = int(folding.fold_table()[ord(token[0])]) & folding.SINGLE
    return h | 1 if single else h & ~1


def tokens(text: str) -> Iterator[str]:
    """The folded tokens of a text, by the contract and slowly."""
    return (token for token, _, _ in token_spans(text))


def list_tokens(data: bytes) -> list[str]:
    """The folded tokens of a text in UTF-8; of ASCII, quickly."""
    return data.translate(_ascii()).decode().split() if data.isascii() else list(tokens(data.decode()))


@functools.cache
def _ascii() -> bytes:
    """What each byte of ASCII is folded to; a space where it separates."""
    codes = folding.fold_table()[:128].tolist()
    return bytes(code & folding.CODE if code & folding.WORD else 0x20 for code in codes) + bytes(128)


def token_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """The folded tokens of a text, each with the first character and the one behind its last."""
    codes, word = folding.fold_table(), ""
    for place, character in enumerate(text):
        code = int(codes[ord(character)]) if ord(character) < folding.SIZE else 0
        if code & folding.WORD:
            word += chr(code & folding.CODE)
            continue
        if word:
            yield word, place - len(word), place
            word = ""
        if code & folding.SINGLE:
            yield chr(code & folding.CODE), place, place + 1
    if word:
        yield word, len(text) - len(word), len(text)


def encode_with_token_starts(text: str) -> tuple[bytes, list[int]]:
    """The bytes of a text, and where in them each of its tokens starts, and at last their number."""
    data = text.encode()
    out = np.empty(len(data), np.int64)
    padded = np.frombuffer(data + bytes(PADDING), np.uint8)
    count = token_starts(padded, 0, len(data), folding.fold_table(), out)
    return data, [*out[:count].tolist(), len(data)]


def byte_lengths(texts: Texts) -> Int64Array:
    """The size of each text in bytes of UTF-8."""
    return np.asarray(pc.binary_length(texts).cast(pa.int64()).fill_null(0), np.int64)


def chunks(texts: Texts) -> list[tuple[int, Texts]]:
    """The texts some at a time, each time with the row of the first: no more than CHUNK_ROWS, about CHUNK_BYTES."""
    parts = np.cumsum(byte_lengths(texts)) // CHUNK_BYTES
    full = np.flatnonzero(np.diff(parts)) + 1
    cuts = np.unique(np.concatenate([full, np.arange(0, len(texts), CHUNK_ROWS), [len(texts)]])).tolist()
    return [(first, texts.slice(first, last - first)) for first, last in pairwise(cuts)]


def padded_buffers(texts: Texts) -> Iterator[tuple[int, UInt8Array, Int64Array]]:
    """The texts as (first row, bytes, n + 1 offsets), each with PADDING readable bytes behind its last text.

    No copy is made but of the last few texts of a chunk, where Arrow leaves fewer bytes than that.
    """
    first = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        data, offsets = _buffers(chunk)
        whole = max(0, int(np.searchsorted(offsets, len(data) - PADDING, side="right")) - 1)
        if whole:
            yield first, data, offsets[: whole + 1]
        if whole < len(chunk):
            rest = np.concatenate([data[offsets[whole] : offsets[-1]], np.zeros(PADDING, np.uint8)])
            yield first + whole, rest, offsets[whole:] - offsets[whole]
        first += len(chunk)


def _buffers(texts: pa.Array) -> tuple[UInt8Array, Int64Array]:
    """The bytes and the n + 1 offsets of an Arrow string array, without a copy where it is a large_string array."""
    texts = texts.fill_null("") if texts.null_count else texts
    texts = texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    return np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1]


@kernel(f"uint64({BYTES}, int64, int64)")
def _ascii_token(data: Any, start: int, size: int) -> Any:
    h, position = _SEED, start
    while size > 8:
        h = (h ^ (load64(data, position) | _LOWER)) * _STIR
        h ^= h >> _U32
        position += 8
        size -= 8
    keep = _ALL >> np.uint64(64 - 8 * size)
    h = (h ^ ((load64(data, position) | _LOWER) & keep)) * _STIR
    return (h ^ (h >> _U32)) & _WORD_BIT


@kernel(f"UniTuple(int64, 2)({BYTES}, int64)", inline="always")
def decode_code_point(data: Any, i: int) -> Any:
    """The code point at byte i of valid UTF-8, and how many bytes it takes."""
    first = np.int64(data[i])
    if first < 0x80:
        return first, 1
    second = np.int64(data[i + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(data[i + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | (np.int64(data[i + 3]) & 0x3F), 4


@kernel("UniTuple(uint64, 2)(uint64)", inline="always")
def encode_code_point(code: Any) -> Any:
    """The UTF-8 of a code point as a little-endian number, and its size in bytes."""
    low, one = np.uint64(0x80) | (code & np.uint64(0x3F)), np.uint64(6)
    if code < np.uint64(0x80):
        return code, _U1
    if code < np.uint64(0x800):
        return np.uint64(0xC0) | code >> one | low << _U8, np.uint64(2)
    middle = np.uint64(0x80) | (code >> one & np.uint64(0x3F))
    if code < np.uint64(0x10000):
        return np.uint64(0xE0) | code >> np.uint64(12) | middle << _U8 | low << np.uint64(16), np.uint64(3)
    upper = np.uint64(0x80) | (code >> np.uint64(12) & np.uint64(0x3F))
    rest = upper << _U8 | middle << np.uint64(16) | low << np.uint64(24)
    return np.uint64(0xF0) | code >> np.uint64(18) | rest, np.uint64(4)


@kernel(f"int64(uint64, uint64, uint64, {HASHES}, int64)", inline="always")
def _finish(h: Any, chunk: Any, filled: Any, out: Any, count: int) -> Any:
    if filled > _U0:
        h = (h ^ chunk) * _STIR
        h ^= h >> _U32
    if h != _SEED:
        out[count] = h & _WORD_BIT
        count += 1
    return count


@kernel(f"UniTuple(int64, 2)({BYTES}, int64, int64, {TABLE}, {HASHES}, int64)")
def _folded_tokens(data: Any, i: int, end: int, table: Any, out: Any, count: int) -> Any:
    """Tokens from byte i to the next ASCII separator or `end`; where it stopped and the new count."""
    h, chunk, filled = _SEED, _U0, _U0
    while i < end:
        code, size = decode_code_point(data, i)
        entry = table[code] if code < _SIZE else np.uint32(0)
        if code < 0x80 and entry & _WORD == 0:
            break
        i += size
        folded, width = encode_code_point(np.uint64(entry & _CODE))
        if entry & _WORD:
            chunk |= folded << filled
            filled += width << np.uint64(3)
            if filled >= _U64:
                h = (h ^ chunk) * _STIR
                h ^= h >> _U32
                filled -= _U64
                chunk = folded >> ((width << np.uint64(3)) - filled)
            continue
        count = _finish(h, chunk, filled, out, count)
        h, chunk, filled = _SEED, _U0, _U0
        if entry & _SINGLE:
            h = (h ^ folded) * _STIR
            out[count] = (h ^ (h >> _U32)) | _U1
            count += 1
            h = _SEED
    return i, _finish(h, chunk, filled, out, count)


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, {HASHES})")
def token_hashes(data: Any, i: int, end: int, table: Any, out: Any) -> Any:
    """Write the token hashes of data[i:end] to `out` (room for end - i); their number. Reads PADDING bytes behind."""
    count = 0
    while i < end:
        word, foreign = classes64(data, i)
        if end - i < 64:
            keep = _ALL >> np.uint64(64 - (end - i))
            word, foreign = word & keep, foreign & keep
        following = i + 64
        while word != _U0:
            start = trailing_zeros(word)
            size = trailing_zeros(~(word >> np.uint64(start)))
            if start + size >= 64:
                following = i + start
                if start == 0:
                    following, count = _folded_tokens(data, i, end, table, out, count)
                break
            if foreign >> np.uint64(start) & (_ALL >> np.uint64(64 - size)):
                _, count = _folded_tokens(data, i + start, i + start + size, table, out, count)
            else:
                out[count] = _ascii_token(data, i + start, size)
                count += 1
            word &= _ALL << np.uint64(start + size)
        i = following
    return count


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, int64[::1])")
def token_starts(data: Any, i: int, end: int, table: Any, out: Any) -> Any:
    """Write where the tokens of data[i:end] start, in bytes, to `out` (room for end - i); their number."""
    count, inside = 0, False
    while i < end:
        code, size = decode_code_point(data, i)
        entry = table[code] if code < _SIZE else np.uint32(0)
        if entry & _SINGLE or (entry & _WORD and not inside):
            out[count] = i
            count += 1
        inside = entry & _WORD != 0
        i += size
    return count
