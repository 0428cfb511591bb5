"""Passages that documents share are kept in the best ranked one."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation.duplicates import repeated_lines
from tasks.curation.text import words

MENU = "Home About us Contact Imprint Privacy Terms of service Careers Press Blog Help"
OTHER = "one two three four five six seven eight nine ten eleven"
CHINESE = "本网站所有内容版权归原作者所有，未经许可不得转载"


def remove(texts: list[str], priority: list[int] | None = None, **params: object) -> tuple[list[str], list[int]]:
    array = pa.array(texts, pa.large_string())
    settings = repeated_lines.Params.model_validate(params)
    result, counts = repeated_lines.remove_repeated(array, settings, np.array(priority or [0] * len(texts)))
    return result.to_pylist(), counts.tolist()


def test_a_shared_line_stays_in_the_longest_document() -> None:
    texts = [f"{MENU}\n{OTHER} first", f"{MENU}\n{OTHER} second and longer", "no menu here"]
    assert remove(texts, unit="line") == ([f"{OTHER} first", texts[1], texts[2]], [1, 0, 0])


def test_priority_goes_before_length() -> None:
    texts = [f"a\n\n{MENU}", f"longer\n\n{MENU}\n\nend"]
    assert remove(texts, [1, 0]) == ([texts[0], "longer\n\nend"], [0, 1])


def test_paragraphs_are_compared_by_folded_tokens_and_cut_whole() -> None:
    texts = [f"start of one\n\n{CHINESE}。\n  \nend", f"{CHINESE.replace('权', '權')}!\n\nthe second has more text"]
    assert remove(texts) == (["start of one\n\nend", texts[1]], [1, 0])


def test_lines_are_no_paragraphs() -> None:
    texts = [f"{OTHER}\n{MENU}", f"{MENU}\nsomething else, and long enough to be the longest of them all"]
    assert remove(texts)[1] == [0, 0]
    assert remove(texts, unit="line")[1] == [1, 0]


def test_short_and_rare_passages_and_repeats_within_a_document_stay() -> None:
    assert remove(["yes\nyes", "yes and no\nyes"], unit="line")[1] == [0, 0]
    assert remove([f"{MENU}\n{MENU}", "x"], unit="line")[1] == [0, 0]
    assert remove([MENU, f"{MENU}\nx"], unit="line", min_documents=3)[1] == [0, 0]
    assert remove([MENU, f"{MENU}\nx", f"{MENU}\nyz"], unit="line", min_documents=3) == (
        ["", "x", f"{MENU}\nyz"],
        [1, 1, 0],
    )


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, chunk_rows: int) -> None:
    texts = [f"{MENU} {i % 5}\n\n{OTHER} {i}\n\n{CHINESE}" for i in range(20)]
    expected = remove(texts)
    assert sum(expected[1]) == 15 + 19
    monkeypatch.setattr(words, "CHUNK_ROWS", chunk_rows)
    assert remove(texts) == expected


def test_nothing_to_cut() -> None:
    assert remove([]) == ([], [])
    assert remove(["", "\n\n", "a\r\n"]) == (["", "\n\n", "a\r\n"], [0, 0, 0])
