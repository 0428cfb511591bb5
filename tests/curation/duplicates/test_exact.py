"""Exact duplicates: white space does not count, everything else does."""

import numpy as np
import pyarrow as pa
import xxhash

from tasks.curation.duplicates import exact

SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())


def find_duplicates(texts: list[str], priority: list[int], ids: list[str] | None = None) -> list[int]:
    names = None if ids is None else pa.array(ids)
    rows: list[int] = exact.duplicates(pa.array(texts, pa.large_string()), np.array(priority), names).tolist()
    return rows


def test_white_space_is_normalized_and_nothing_else() -> None:
    texts = ["a b\n c", " a  b c ", "A b c", "a b c.", "a\u3000b\u00a0c", "", "  \n"]
    assert find_duplicates(texts, [0] * 7) == [1, -1, -1, -1, 1, 6, -1]  # 7, 8 and 8 bytes are equal: row 1 stays


def test_the_longest_then_the_smallest_id_is_kept() -> None:
    assert find_duplicates(["x  y", "x y", "x  y"], [0, 0, 0], ["c", "a", "b"]) == [2, 2, -1]
    assert find_duplicates(["x  y", "x y", "x  y"], [0, 1, 0], ["c", "a", "b"]) == [1, -1, 1]


def test_digests_are_xxh3_of_the_normalized_text() -> None:
    texts = [SPACES + "中文 é" + SPACES + "x" + SPACES, "plain", "", SPACES, "a" + "\u200b" + "b"]
    expected = [xxhash.xxh3_128_digest(exact.normalized(text).encode()) for text in texts]
    assert [row.tobytes() for row in exact.digests(pa.array(texts, pa.large_string()))] == expected


def test_no_texts() -> None:
    assert find_duplicates([], []) == []
