"""Lines or paragraphs that several documents share: menus, disclaimers, licenses, quoted passages.

After CCNet (Wenzek et al. 2020) and Dolma (Soldaini et al. 2024): a passage is kept in one document, the best ranked of
those that have it, and cut out of the others. Passages are equal if their folded tokens are (64-bit hashes of them).
"""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, Field

from tasks.curation.arrays import BoolArray, Int64Array, UInt64Array
from tasks.curation.compiled import kernel
from tasks.curation.duplicates.ranking import ranks
from tasks.curation.text import folding
from tasks.curation.text.shingles import BASE
from tasks.curation.text.words import BYTES, HASHES, OFFSETS, TABLE, Texts, byte_lengths, chunks, pieces, token_hashes

Places: TypeAlias = Int64Array  # [n, 3]
_BASE, _U0 = np.uint64(BASE), np.uint64(0)


class Params(BaseModel, frozen=True, extra="forbid"):
    """What counts as a passage, and from how many documents on it is one too many."""

    unit: Literal["line", "paragraph"] = "paragraph"  # a paragraph ends with an empty line
    min_tokens: int = Field(10, ge=1)  # words, or characters of scripts without spaces; shorter ones stay
    min_documents: int = Field(2, ge=2)


def cut(texts: Texts, params: Params, priority: npt.NDArray[Any], ids: Texts | None = None) -> tuple[Texts, Any]:
    """The texts without the passages that a better ranked text keeps, and how many were cut from each: int64[n].

    Ranked as in `ranking.ranks`. A text may end up empty.
    """
    gone = repeated(texts, params, priority, ids)
    left = pa.chunked_array(without(texts, gone), texts.type)
    return left, np.bincount(gone[:, 0], minlength=len(texts))


def repeated(texts: Texts, params: Params, priority: npt.NDArray[Any], ids: Texts | None = None) -> Places:
    """The passages that a better ranked text keeps: (row, first byte, the byte behind the last), in order."""
    places, hashes = passages(texts, params)
    return places[_spare(places[:, 0], hashes, ranks(priority, byte_lengths(texts), ids), params.min_documents)]


def without(texts: Texts, gone: Places) -> Iterator[pa.Array]:
    """The texts without those passages, chunk by chunk."""
    first = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        mine = gone[slice(*np.searchsorted(gone[:, 0], [first, first + len(chunk)]))]
        rows, starts = np.unique(mine[:, 0] - first, return_index=True)
        changed = [
            _without(chunk[row].as_py().encode(), spans.tolist())
            for row, spans in zip(rows.tolist(), np.split(mine[:, 1:], starts[1:]), strict=False)
        ]
        mask = np.zeros(len(chunk), np.bool_)
        mask[rows] = True
        yield pc.replace_with_mask(chunk, pa.array(mask), pa.array(changed, chunk.type))
        first += len(chunk)


def passages(texts: Texts, params: Params) -> tuple[Places, UInt64Array]:
    """(row, first byte, the byte behind the last) of every passage that is long enough, and its hash."""
    places, hashes = [np.empty((0, 3), np.int64)], [np.empty(0, np.uint64)]
    for start, some in chunks(texts):
        for first, data, offsets in pieces(some):
            room = int(offsets[-1] - offsets[0]) // max(1, params.min_tokens) + len(offsets)
            where, found = np.empty((room, 3), np.int64), np.empty(room, np.uint64)
            breaks = 2 if params.unit == "paragraph" else 1
            count = _passages(data, offsets, folding.table(), breaks, params.min_tokens, where, found)
            where[:count, 0] += start + first
            places.append(where[:count].copy())
            hashes.append(found[:count].copy())
    return np.concatenate(places), np.concatenate(hashes)


def _spare(rows: Any, hashes: Any, rank: Int64Array, min_documents: int) -> BoolArray:
    """Which passages are in enough documents, of which theirs is not the best ranked."""
    _, kinds = np.unique(hashes, return_inverse=True)
    best = np.full(len(hashes), len(rank), np.int64)
    np.minimum.at(best, kinds, rank[rows])
    spread = np.bincount(np.unique(np.stack([kinds, rows]), axis=1)[0], minlength=len(hashes))
    return np.asarray((rank[rows] > best[kinds]) & (spread[kinds] >= min_documents))


def _without(text: bytes, spans: list[list[int]]) -> str:
    parts, done = [], 0
    for begin, end in spans:
        parts.append(text[done:begin])
        done = end
    return b"".join([*parts, text[done:]]).decode().rstrip("\n")


@kernel(f"int64({BYTES}, {OFFSETS}, {TABLE}, int64, int64, int64[:, ::1], {HASHES})")
def _passages(data: Any, offsets: Any, table: Any, breaks: int, least: int, where: Any, hashes: Any) -> Any:
    """A passage ends behind `breaks` line feeds in a row (white space between them aside), or with its text."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    tokens, found = np.empty(longest + 1, np.uint64), 0
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        while begin < end:
            i, feeds = begin, 0
            while i < end and (feeds < breaks or data[i] == 0x0A):
                if data[i] == 0x0A:
                    feeds += 1
                elif data[i] > 0x20:
                    feeds = 0
                i += 1
            count = token_hashes(data, begin, i, table, tokens)
            if count >= least:
                h = _U0
                for k in range(count):
                    h = h * _BASE + tokens[k]
                where[found, 0], where[found, 1], where[found, 2] = row, begin - offsets[row], i - offsets[row]
                hashes[found] = h
                found += 1
            begin = i
    return found
