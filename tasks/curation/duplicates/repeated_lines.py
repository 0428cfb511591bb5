"""Lines or paragraphs that several documents share, such as menus, disclaimers, licenses and quoted passages.

As in CCNet (Wenzek et al. 2020) and Dolma (Soldaini et al. 2024), a repeated passage is kept in one document, the best
ranked one that has it, and removed from the others. Passages are equal if the 64-bit hashes of their folded tokens are.
"""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from tasks.compiled import kernel
from tasks.curation.arrays import BoolArray, Int64Array, UInt8Array, UInt32Array, UInt64Array
from tasks.curation.duplicates.ranking import ranks
from tasks.curation.text import folding
from tasks.curation.text.shingles import BASE
from tasks.curation.text.words import (
    BYTES,
    HASHES,
    OFFSETS,
    TABLE,
    Texts,
    byte_lengths,
    chunks,
    padded_buffers,
    token_hashes,
)

Passages = Int64Array  # [n, 3]: row, first byte, and the byte behind the last one, of each passage
_BASE, _U0 = np.uint64(BASE), np.uint64(0)


class Params(BaseModel, frozen=True, extra="forbid"):
    """What counts as a repeated passage."""

    unit: Literal["line", "paragraph"] = Field(
        "paragraph", description="Unit of comparison; a paragraph ends with an empty line."
    )
    min_tokens: int = Field(
        10,
        ge=1,
        description="Shorter passages are never removed; in words, or characters in scripts without spaces.",
    )
    min_documents: int = Field(
        2, ge=2, description="Smallest number of documents that share a passage for which it is removed."
    )


def remove_repeated(
    texts: Texts, params: Params, priority: npt.NDArray[Any], ids: Texts | None = None
) -> tuple[pa.ChunkedArray, Int64Array]:
    """Return the texts without passages that a better ranked text keeps, and how many were removed from each: int64[n].

    The ranking is that of `ranking.ranks`. A text may become empty.
    """
    passages = repeated_passages(texts, params, priority, ids)
    remaining = pa.chunked_array(remove_passages(texts, passages), texts.type)
    return remaining, np.bincount(passages[:, 0], minlength=len(texts))


def repeated_passages(texts: Texts, params: Params, priority: npt.NDArray[Any], ids: Texts | None = None) -> Passages:
    """Return the passages that a better ranked text keeps, ordered by row and position."""
    passages, hashes = find_passages(texts, params)
    text_ranks = ranks(priority, byte_lengths(texts), ids)
    return passages[_is_repeated(passages[:, 0], hashes, text_ranks, params.min_documents)]


def remove_passages(texts: Texts, passages: Passages) -> Iterator[pa.Array]:
    """Yield the texts without the passages, chunk by chunk."""
    first = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        chunk_passages = passages[slice(*np.searchsorted(passages[:, 0], [first, first + len(chunk)]))]
        # Passages are ordered by row: each changed row has one run of them, which starts at `starts`.
        rows, starts = np.unique(chunk_passages[:, 0] - first, return_index=True)
        changed = [
            _remove_spans(chunk[row].as_py().encode(), spans.tolist())
            for row, spans in zip(rows.tolist(), np.split(chunk_passages[:, 1:], starts[1:]), strict=False)
        ]
        mask = np.zeros(len(chunk), np.bool_)
        mask[rows] = True
        yield pc.replace_with_mask(chunk, pa.array(mask), pa.array(changed, chunk.type))
        first += len(chunk)


def find_passages(texts: Texts, params: Params) -> tuple[Passages, UInt64Array]:
    """Return every passage with at least `min_tokens` tokens, and the hash of each."""
    passages, hashes = [np.empty((0, 3), np.int64)], [np.empty(0, np.uint64)]
    breaks = 2 if params.unit == "paragraph" else 1
    for start, chunk in chunks(texts):
        for first, data, offsets in padded_buffers(chunk):
            # A token takes at least one byte, so that n bytes contain at most n / min_tokens passages.
            capacity = int(offsets[-1] - offsets[0]) // max(1, params.min_tokens) + len(offsets)
            piece_passages, piece_hashes = np.empty((capacity, 3), np.int64), np.empty(capacity, np.uint64)
            count = _hash_passages(
                data, offsets, folding.fold_table(), breaks, params.min_tokens, piece_passages, piece_hashes
            )
            piece_passages[:count, 0] += start + first
            passages.append(piece_passages[:count].copy())  # a view would keep the whole buffer in memory
            hashes.append(piece_hashes[:count].copy())
    return np.concatenate(passages), np.concatenate(hashes)


def _is_repeated(rows: Int64Array, hashes: UInt64Array, text_ranks: Int64Array, min_documents: int) -> BoolArray:
    """Which passages are in at least `min_documents` documents, one of which ranks better than the passage's own."""
    # Equal passages form a group.
    _, groups = np.unique(hashes, return_inverse=True)
    best_ranks = np.full(len(hashes), len(text_ranks), np.int64)
    np.minimum.at(best_ranks, groups, text_ranks[rows])
    # Each document counts once for a passage, however often the passage is in it.
    num_documents = np.bincount(np.unique(np.stack([groups, rows]), axis=1)[0], minlength=len(hashes))
    return np.asarray((text_ranks[rows] > best_ranks[groups]) & (num_documents[groups] >= min_documents))


def _remove_spans(text: bytes, spans: list[list[int]]) -> str:
    """Return the text without the bytes of the spans (begin, end), and without line breaks at its end."""
    parts, position = [], 0
    for begin, end in spans:
        parts.append(text[position:begin])
        position = end
    return b"".join([*parts, text[position:]]).decode().rstrip("\n")


@kernel(f"int64({BYTES}, {OFFSETS}, {TABLE}, int64, int64, int64[:, ::1], {HASHES})")
def _hash_passages(
    data: UInt8Array,
    offsets: Int64Array,
    table: UInt32Array,
    breaks: int,
    min_tokens: int,
    passages: Int64Array,
    hashes: UInt64Array,
) -> int:
    """Write the passages and their hashes; return their number.

    A passage ends behind `breaks` consecutive line feeds, between which there may be white space, or with its text.
    The hash is a polynomial of the token hashes, modulo 2^64.
    """
    # One buffer for the tokens of any text: no passage has more tokens than its text has bytes.
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    tokens, num_passages = np.empty(longest + 1, np.uint64), 0
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        while begin < end:
            i, feeds = begin, 0
            while i < end and (feeds < breaks or data[i] == 0x0A):  # further empty lines belong to the passage
                if data[i] == 0x0A:
                    feeds += 1
                elif data[i] > 0x20:
                    feeds = 0
                i += 1
            count = token_hashes(data, begin, i, table, tokens)
            if count >= min_tokens:
                # The same polynomial as for shingles, but over all tokens of the passage.
                h = _U0
                for k in range(count):
                    h = h * _BASE + tokens[k]
                passages[num_passages, 0] = row
                passages[num_passages, 1] = begin - offsets[row]
                passages[num_passages, 2] = i - offsets[row]
                hashes[num_passages] = h
                num_passages += 1
            begin = i
    return num_passages
