"""Split UTF-8 text into tokens and hash them where Arrow stores the bytes, without a Python object per text or word.

Contract (keys can be compared with those of any program that follows it):

- Every character is folded by `folding.fold_table`. A token is a run of word characters, or one character of a script
  that is written without spaces. All other characters separate tokens.
- The hash of a token: h = SEED; for each 8 bytes of its folded UTF-8, little-endian, padded with zeros:
  h = (h ^ chunk) * MULTIPLIER, then h ^= h >> 32; all modulo 2^64. Finally its lowest bit is set for a token of one
  such character, and cleared for a word. So a kernel can count the two kinds without the text.

`tokens` and `token_hash` do the same in plain Python. The kernel reads 64 bytes at a time: all ASCII word characters
are folded by `byte | 0x20`, and the borders of words are found in one 64-bit mask.
"""

import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.compiled import kernel
from tasks.curation.arrays import Int32Array, Int64Array, UInt8Array, UInt32Array, UInt64Array
from tasks.curation.text import folding
from tasks.curation.text.folding import fold_table as fold_table  # every kernel that splits words needs it, too
from tasks.curation.text.vectors import classes64, trailing_zeros
from tasks.curation.text.vectors import load64 as load64  # kernels that search words read them by it

SEED, MULTIPLIER = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
MASK64 = (1 << 64) - 1
PADDING = 72  # bytes that the kernels may read after the end of a text: a block of 64 bytes, and one of 8
CHUNK_ROWS, CHUNK_BYTES = 4096, 1 << 20  # texts that one thread processes at a time

Texts: TypeAlias = pa.Array | pa.ChunkedArray  # of strings

# Types of arrays in the signatures of kernels, in numba's notation. Arrow's buffers are read-only.
BYTES = "Array(uint8, 1, 'C', readonly=True)"
OFFSETS = "Array(int64, 1, 'C', readonly=True)"
TABLE = "Array(uint32, 1, 'C', readonly=True)"
HASHES = "uint64[::1]"

_SEED, _MULTIPLIER, _ALL = np.uint64(SEED), np.uint64(MULTIPLIER), np.uint64(MASK64)
_U0, _U1, _U8, _U32, _U64 = np.uint64(0), np.uint64(1), np.uint64(8), np.uint64(32), np.uint64(64)
_WORD_MASK = np.uint64(MASK64 - 1)  # clears the lowest bit, as the hash of a word has it
_LOWER = np.uint64(0x2020202020202020)  # the bit that distinguishes lower from upper case, in 8 bytes
_WORD, _SINGLE, _CODE = np.uint32(folding.WORD), np.uint32(folding.SINGLE), np.uint32(folding.CODE)
_SIZE = folding.SIZE


def token_hash(token: str) -> int:
    """Return the 64-bit hash of a folded token."""
    data = token.encode()
    h = SEED
    for start in range(0, len(data), 8):
        h = ((h ^ int.from_bytes(data[start : start + 8], "little")) * MULTIPLIER) & MASK64
        h ^= h >> 32
    single = int(folding.fold_table()[ord(token[0])]) & folding.SINGLE
    return h | 1 if single else h & ~1


def tokens(text: str) -> Iterator[str]:
    """Yield the folded tokens of a text, as the contract defines them. This is slow."""
    return (token for token, _, _ in token_spans(text))


def list_tokens(data: bytes) -> list[str]:
    """Return the folded tokens of a text in UTF-8; fast if it is ASCII."""
    return data.translate(_ascii_table()).decode().split() if data.isascii() else list(tokens(data.decode()))


@functools.cache
def _ascii_table() -> bytes:
    """Return the folded byte of each ASCII byte, and a space for a byte that separates tokens."""
    codes = folding.fold_table()[:128].tolist()
    return bytes(code & folding.CODE if code & folding.WORD else 0x20 for code in codes) + bytes(128)


def token_spans(text: str) -> Iterator[tuple[str, int, int]]:
    """Yield (folded token, position of its first character, position after its last character)."""
    codes, word = folding.fold_table(), ""
    for position, character in enumerate(text):
        code = int(codes[ord(character)]) if ord(character) < folding.SIZE else 0
        if code & folding.WORD:
            word += chr(code & folding.CODE)
            continue
        if word:
            yield word, position - len(word), position
            word = ""
        if code & folding.SINGLE:
            yield chr(code & folding.CODE), position, position + 1
    if word:
        yield word, len(text) - len(word), len(text)


def encode_with_token_starts(text: str) -> tuple[bytes, list[int]]:
    """Return the UTF-8 of a text, and the offset of each of its tokens in bytes, followed by the number of bytes."""
    data = text.encode()
    starts = np.empty(len(data), np.int64)
    padded = np.frombuffer(data + bytes(PADDING), np.uint8)
    count = token_starts(padded, 0, len(data), folding.fold_table(), starts)
    return data, [*starts[:count].tolist(), len(data)]


def byte_lengths(texts: Texts) -> Int64Array:
    """Return the size of each text in bytes of UTF-8."""
    return np.asarray(pc.binary_length(texts).cast(pa.int64()).fill_null(0), np.int64)


def chunks(texts: Texts) -> list[tuple[int, Texts]]:
    """Divide the texts into (row of the first text, texts), of at most CHUNK_ROWS rows and about CHUNK_BYTES each."""
    parts = np.cumsum(byte_lengths(texts)) // CHUNK_BYTES
    full = np.flatnonzero(np.diff(parts)) + 1
    cuts = np.unique(np.concatenate([full, np.arange(0, len(texts), CHUNK_ROWS), [len(texts)]])).tolist()
    return [(first, texts.slice(first, last - first)) for first, last in pairwise(cuts)]


def take(texts: Texts, rows: Int32Array | Int64Array) -> pa.Array:
    """Return the texts of some rows as one array.

    Arrow's own `take` first copies all chunks into one, which reads a whole file that is mapped into memory.
    """
    if not isinstance(texts, pa.ChunkedArray):
        return texts.take(pa.array(rows))
    starts = np.cumsum([0, *map(len, texts.chunks)])
    chunk_of = np.searchsorted(starts, rows, side="right") - 1
    order = np.argsort(chunk_of, kind="stable")
    cuts = np.searchsorted(chunk_of[order], np.arange(len(texts.chunks) + 1))
    pieces = [
        texts.chunk(number).take(pa.array(rows[order[begin:end]] - starts[number]))
        for number, (begin, end) in enumerate(pairwise(cuts.tolist()))
        if begin < end
    ]
    if not pieces:
        return pa.array([], texts.type)
    joined = pa.concat_arrays(pieces)
    if (np.diff(order) >= 0).all():
        return joined
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    return joined.take(pa.array(places))


def padded_buffers(texts: Texts) -> Iterator[tuple[int, UInt8Array, Int64Array]]:
    """Yield the texts as (first row, bytes, n + 1 offsets), with PADDING readable bytes after the last text.

    Nothing is copied except the last few texts of an Arrow chunk, where its buffer ends too early.
    """
    first = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        data, offsets = _buffers(chunk)
        num_padded = max(0, int(np.searchsorted(offsets, len(data) - PADDING, side="right")) - 1)
        if num_padded:
            yield first, data, offsets[: num_padded + 1]
        if num_padded < len(chunk):
            rest = np.concatenate([data[offsets[num_padded] : offsets[-1]], np.zeros(PADDING, np.uint8)])
            yield first + num_padded, rest, offsets[num_padded:] - offsets[num_padded]
        first += len(chunk)


def _buffers(texts: pa.Array) -> tuple[UInt8Array, Int64Array]:
    """Return the bytes and the n + 1 offsets of an Arrow string array; without a copy if it is a large_string array."""
    texts = texts.fill_null("") if texts.null_count else texts
    texts = texts if pa.types.is_large_string(texts.type) else texts.cast(pa.large_string())
    _, offsets, data = texts.buffers()
    if not len(texts) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    return np.frombuffer(data, np.uint8), np.frombuffer(offsets, np.int64)[texts.offset :][: len(texts) + 1]


@kernel(f"uint64({BYTES}, int64, int64)")
def _hash_ascii_word(data: UInt8Array, start: int, size: int) -> np.uint64:
    """Return the hash of the ASCII word data[start : start + size], size > 0."""
    h: np.uint64 = _SEED
    position = start
    while size > 8:
        h = (h ^ (load64(data, position) | _LOWER)) * _MULTIPLIER
        h ^= h >> _U32
        position += 8
        size -= 8
    keep = _ALL >> np.uint64(64 - 8 * size)  # the bytes after the word belong to the next one, and become zeros
    h = (h ^ ((load64(data, position) | _LOWER) & keep)) * _MULTIPLIER
    return (h ^ (h >> _U32)) & _WORD_MASK


@kernel(f"UniTuple(int64, 2)({BYTES}, int64)", inline="always")
def decode_code_point(data: UInt8Array, i: int) -> tuple[np.int64, int]:
    """Return the code point at byte i of valid UTF-8, and its size in bytes."""
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
def encode_code_point(code: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the UTF-8 of a code point as a little-endian number, and its size in bytes."""
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
def _append_word(h: np.uint64, chunk: np.uint64, num_bits: np.uint64, hashes: UInt64Array, count: int) -> int:
    """Finish the hash of a word with its last, incomplete chunk, and append it to `hashes`; return the new count.

    Without any character since the last token, h is still SEED, and nothing is appended.
    """
    if num_bits > _U0:
        h = (h ^ chunk) * _MULTIPLIER
        h ^= h >> _U32
    if h != _SEED:
        hashes[count] = h & _WORD_MASK
        count += 1
    return count


@kernel(f"UniTuple(int64, 2)({BYTES}, int64, int64, {TABLE}, {HASHES}, int64)")
def _hash_mixed_tokens(
    data: UInt8Array, i: int, end: int, table: UInt32Array, hashes: UInt64Array, count: int
) -> tuple[int, int]:
    """Hash the tokens from byte i to the next ASCII separator or `end`; return where it stopped and the new count.

    This is the slow path, for text with characters that are not ASCII, and for words that do not fit into 64 bytes.
    """
    # Folding can change the number of bytes of a character, so the folded UTF-8 is collected in `chunk`, of which the
    # lowest `num_bits` bits are filled. Whole chunks of 64 bits go into the hash.
    h, chunk, num_bits = _SEED, _U0, _U0
    while i < end:
        code, size = decode_code_point(data, i)
        entry = table[code] if code < _SIZE else np.uint32(0)
        if code < 0x80 and entry & _WORD == 0:
            break
        i += size
        folded, width = encode_code_point(np.uint64(entry & _CODE))
        if entry & _WORD:
            chunk |= folded << num_bits
            num_bits += width << np.uint64(3)
            if num_bits >= _U64:
                h = (h ^ chunk) * _MULTIPLIER
                h ^= h >> _U32
                num_bits -= _U64
                # The bits of this character that did not fit into the chunk begin the next one. If it fitted exactly,
                # the shift is by all its bits, and the next chunk is 0.
                chunk = folded >> ((width << np.uint64(3)) - num_bits)
            continue
        count = _append_word(h, chunk, num_bits, hashes, count)
        h, chunk, num_bits = _SEED, _U0, _U0
        if entry & _SINGLE:
            h = (h ^ folded) * _MULTIPLIER
            hashes[count] = (h ^ (h >> _U32)) | _U1
            count += 1
            h = _SEED
    return i, _append_word(h, chunk, num_bits, hashes, count)


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, {HASHES})")
def token_hashes(data: UInt8Array, i: int, end: int, table: UInt32Array, hashes: UInt64Array) -> int:
    """Write the token hashes of data[i:end] to `hashes`, and return their number.

    `hashes` needs room for end - i entries. PADDING bytes after `end` must be readable. table: `folding.fold_table`.
    """
    count = 0
    while i < end:
        # Bit k of `word`: byte i + k belongs to a word, or to a character that is not ASCII.
        word, non_ascii = classes64(data, i)
        if end - i < 64:
            keep = _ALL >> np.uint64(64 - (end - i))
            word, non_ascii = word & keep, non_ascii & keep
        next_block = i + 64
        while word != _U0:
            # The lowest run of ones is the next word: it begins after the trailing zeros, and ends before the first
            # zero above.
            start = trailing_zeros(word)
            size = trailing_zeros(~(word >> np.uint64(start)))
            if start + size >= 64:
                # The word reaches the end of the block. Read the next block from its first byte on, so that it lies in
                # one block; a word of 64 bytes or more goes the slow path.
                next_block = i + start
                if start == 0:
                    next_block, count = _hash_mixed_tokens(data, i, end, table, hashes, count)
                break
            if non_ascii >> np.uint64(start) & (_ALL >> np.uint64(64 - size)):
                _, count = _hash_mixed_tokens(data, i + start, i + start + size, table, hashes, count)
            else:
                hashes[count] = _hash_ascii_word(data, i + start, size)
                count += 1
            word &= _ALL << np.uint64(start + size)  # remove the run from the mask
        i = next_block
    return count


@kernel(f"int64({BYTES}, int64, int64, {TABLE}, int64[::1])")
def token_starts(data: UInt8Array, i: int, end: int, table: UInt32Array, starts: Int64Array) -> int:
    """Write the offsets of the tokens of data[i:end] to `starts`, which needs end - i entries; return their number."""
    count, in_word = 0, False
    while i < end:
        code, size = decode_code_point(data, i)
        entry = table[code] if code < _SIZE else np.uint32(0)
        if entry & _SINGLE or (entry & _WORD and not in_word):
            starts[count] = i
            count += 1
        in_word = entry & _WORD != 0
        i += size
    return count
