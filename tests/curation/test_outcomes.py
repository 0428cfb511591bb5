"""Outcomes of documents in two bytes each, and columns that are files."""

from pathlib import Path

import numpy as np

from tasks.curation.corpus import encode_strings
from tasks.curation.filtering import KEPT
from tasks.curation.outcomes import Outcomes
from tasks.curation.signals.column_files import ColumnFiles


def test_reasons_of_several_parts_are_counted_and_changed() -> None:
    """Parts of 3 and 2 documents; then the fourth is dropped, too."""
    outcomes = Outcomes()
    outcomes.append(np.array([KEPT, "length.short", KEPT], object))
    outcomes.append(np.array([KEPT, "spam.link"], object))
    assert outcomes.kept.tolist() == [True, False, True, True, False]
    outcomes.drop(np.array([3]), "exact.duplicate")
    assert outcomes.take(np.arange(5)) == [KEPT, "length.short", KEPT, "exact.duplicate", "spam.link"]
    assert outcomes.count() == {"length.short": 1, "spam.link": 1, "exact.duplicate": 1}
    assert outcomes.count(np.array([True, True, False, False, False])) == {"length.short": 1}
    assert outcomes.in_steps({"spam", "exact"}).tolist() == [False, False, False, True, True]
    assert (outcomes.rows("spam.link").tolist(), outcomes.rows("other.reason").tolist()) == ([4], [])
    assert outcomes.codes.nbytes == 2 * len(outcomes)


def test_no_documents_have_no_outcomes() -> None:
    assert (len(Outcomes()), Outcomes().kept.tolist(), Outcomes().count()) == (0, [], {})


def test_columns_are_mapped_and_replace_earlier_ones(tmp_path: Path) -> None:
    for first in (1, 5):
        files = ColumnFiles(tmp_path)
        files.append({"number": np.array([first], np.int64), "code": np.array(["en"], "<U8")})
        files.append({"number": np.array([first + 1], np.int64), "code": np.array(["zh"], "<U2")})
        columns = files.read()
    assert (columns["number"].tolist(), columns["code"].tolist()) == ([5, 6], ["en", "zh"])
    assert all(isinstance(values.base, np.memmap) for values in columns.values())


def test_strings_are_encoded_in_ascending_order_across_blocks() -> None:
    values = np.array(["zh"] * 70_000 + ["en", "ja"])
    names, codes = encode_strings(values)
    assert (names, codes[[0, -2, -1]].tolist()) == (["en", "ja", "zh"], [2, 0, 1])
    assert (np.array(names)[codes] == values).all()
