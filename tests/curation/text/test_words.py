"""The compiled tokens are those of the plain-Python contract, whatever bytes stand around them."""

import random

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation.text import folding, words

ALPHABET = "aZ09_ .,-\n\t'éßİſǆÄ＿Ａｂ①½ﬁ中文電電电\u3000，。カｶﾞひ한국ไทย\u0301😀\U0002a6d6\U00030000\x00\x7f"

TEXTS = [
    "",
    " ",
    "a",
    "Hello, World_9!",
    "x" * 200,
    "word " * 40,
    "é" * 100,
    "a" * 63 + " b",
    "a" * 64,
    "-" * 64 + "tail",
    "中文" * 50,
    "mixed中文words和English混合",
    "don’t “quote” me—no",
    "ab" * 31 + "é" + "cd" * 40,
    "\u0301leading mark",
]


def hashes(texts: list[str]) -> list[list[int]]:
    """Token hashes by the kernel."""
    boundaries: list[list[int]] = []
    for _, data, offsets in words.padded_buffers(pa.array(texts, pa.large_string())):
        out = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint64)
        for i in range(len(offsets) - 1):
            count = words.token_hashes(data, offsets[i], offsets[i + 1], folding.fold_table(), out)
            boundaries.append(out[:count].tolist())
    return boundaries


@pytest.mark.parametrize("text", TEXTS)
def test_kernel_equals_the_contract(text: str) -> None:
    assert hashes([text]) == [[words.token_hash(token) for token in words.tokens(text)]]


def test_kernel_equals_the_contract_on_random_text() -> None:
    dice = random.Random(0)
    texts = ["".join(dice.choices(ALPHABET, k=dice.randrange(150))) for _ in range(400)]
    texts += ["".join(dice.choices("abc de", k=dice.randrange(300))) for _ in range(200)]
    assert hashes(texts) == [[words.token_hash(token) for token in words.tokens(text)] for text in texts]


def test_tokens_by_hand() -> None:
    assert list(words.tokens("Hello, WORLD! 電腦ＡＢ１ x_y")) == ["hello", "world", "电", "脑", "ab1", "x\x7fy"]


def test_single_characters_have_odd_hashes() -> None:
    assert [words.token_hash(token) & 1 for token in ("word", "中", "ไ")] == [0, 1, 1]


def test_fold_leaves_folded_text_alone() -> None:
    folded = folding.fold_text(ALPHABET)
    assert folding.fold_text(folded) == folded


def test_fold_table_is_one_to_one_code_points_and_named() -> None:
    assert folding.fold_table().shape == (folding.SIZE,)
    assert len(folding.digest()) == 16
    assert folding.fold_text("ＡＢＣ　臺灣圖書館ｶ") == "abc 台湾图书馆カ"


def test_pieces_of_slices_and_chunks_are_the_same_texts() -> None:
    texts = [f"text number {i} " * (i % 7) for i in range(50)]
    whole = pa.array(texts, pa.large_string())
    chunked = pa.chunked_array([whole.slice(3, 10), whole.slice(13, 0), pa.array(texts[13:50], pa.large_string())])
    assert contents(chunked) == texts[3:50]
    assert contents(pa.array(["short", None, "offsets"], pa.string())) == ["short", "", "offsets"]


def contents(texts: words.Texts) -> list[str]:
    slices = {}
    for first, data, offsets in words.padded_buffers(texts):
        assert len(data) >= offsets[-1] + words.PADDING
        for i in range(len(offsets) - 1):
            slices[first + i] = bytes(data[offsets[i] : offsets[i + 1]]).decode()
    return [slices[i] for i in range(len(texts))]


@pytest.mark.parametrize("text", [*TEXTS, "".join(map(chr, range(128))), "".join(f"a{chr(i)}B" for i in range(128))])
def test_the_quick_way_for_ascii_says_the_same(text: str) -> None:
    assert words.list_tokens(text.encode()) == list(words.tokens(text))


@pytest.mark.parametrize(("rows", "size"), [(3, 1 << 20), (4096, 10), (1, 1), (4096, 1 << 20)])
def test_chunks_hold_every_text_once_and_in_order(rows: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "CHUNK_ROWS", rows)
    monkeypatch.setattr(words, "CHUNK_BYTES", size)
    texts = pa.chunked_array([TEXTS[:4], TEXTS[4:]], pa.large_string())
    parts = words.chunks(texts)
    assert [first for first, _ in parts] == np.cumsum([0, *(len(some) for _, some in parts[:-1])]).tolist()
    assert [text for _, some in parts for text in some.to_pylist()] == TEXTS
    assert all(len(some) <= rows for _, some in parts)
    assert all(len(some) == 1 or words.byte_lengths(some)[1:].sum() < size for _, some in parts)
    assert words.chunks(pa.array([], pa.large_string())) == []


def test_texts_of_rows_in_any_order_copy_no_other_ones() -> None:
    """Three chunks with the rows 0-1, none, and 2-4. Arrow's own `take` copies all of them."""
    chunked = pa.chunked_array([["a", "b"], [], ["c", "d", "x" * (1 << 20)]], pa.large_string())
    for rows in ([3, 0, 2, 0], [0, 3], []):
        taken = words.take(chunked, np.array(rows, np.int64))
        assert taken.to_pylist() == [chunked[row].as_py() for row in rows]
        assert taken.type == pa.large_string()
        assert pa.default_memory_pool().bytes_allocated() < 1 << 21
    assert words.take(chunked.chunk(2), np.array([1, 0], np.int64)).to_pylist() == ["d", "c"]
