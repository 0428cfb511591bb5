"""The number of copies of a document: by a table, or by the drop rate of clusters of its size."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks import tables
from tasks.curation.duplicates import rehydration
from tasks.curation.duplicates.rehydration import Params
from tasks.files import read_json
from tests.curation.test_curation import PROSE, curate, ingest

FIVE = ((1, 100, 60), (2, 100, 30), (3, 100, 10), (4, 100, 24), (5, 100, 70))


def corpus(*clusters: tuple[int, int, int]) -> tuple[Any, Any]:
    """Return cluster size and whether it is dropped, per document; clusters: (size, clusters, dropped clusters)."""
    sizes = np.concatenate([np.full(size * number, size) for size, number, _ in clusters])
    dropped = [np.arange(size * number) < size * num_dropped for size, number, num_dropped in clusters]
    return sizes, np.concatenate(dropped)


def measured(*clusters: tuple[int, int, int], **params: int) -> list[rehydration.CopyRule]:
    return rehydration.measure_rules(*corpus(*clusters), Params(copies="measured", **params))


def test_between_the_average_and_the_best_copies_grow_in_proportion() -> None:
    """Of 500 clusters 194 are dropped, .388. Better: size 2 by .088, 3 by .288 (the best: 8 copies), 4 by .148."""
    rules = measured(*FIVE, max_copies=8, window=1)
    assert [(rule.size, rule.clusters) for rule in rules] == [(size, 100) for size in range(1, 6)]
    assert [rule.drop_rate for rule in rules] == pytest.approx([0.6, 0.3, 0.1, 0.24, 0.7])
    assert [rule.copies for rule in rules] == [1, 1 + round(7 * 0.088 / 0.288), 8, 1 + round(7 * 0.148 / 0.288), 1]


def test_neighbors_are_averaged_but_at_the_ends() -> None:
    """Before: 1, 3.14, 8, 4.60, 1."""
    assert [rule.copies for rule in measured(*FIVE, max_copies=8, window=3)] == [1, 4, 5, 5, 1]
    assert [rule.copies for rule in measured(*FIVE, max_copies=8, window=5)] == [1, 3, 4, 5, 1]
    assert [rule.copies for rule in measured(*FIVE, max_copies=8, window=11)] == [1, 3, 8, 5, 1]


def test_rare_sizes_are_taken_together() -> None:
    rules = measured((1, 100, 50), (2, 60, 6), (7, 60, 6), (90, 3, 3), window=1)
    assert [(rule.size, rule.copies) for rule in rules] == [(1, 1), (2, 10)]
    assert rules[1].clusters == pytest.approx(123)
    assert rules[1].drop_rate == pytest.approx((6 + 6 + 3) / 123)


def test_filters_that_drop_all_sizes_alike_say_nothing() -> None:
    assert [rule.copies for rule in measured((1, 100, 20), (2, 100, 20))] == [1, 1]
    nothing = np.zeros(0, np.int64)
    assert rehydration.measure_rules(nothing, nothing > 0, Params(copies="measured")) == []


def test_each_language_has_its_own_table() -> None:
    params = Params(copies={2: 2, 4: 3, 9: 1}, languages={"zh": {3: 7}})
    sizes, languages = np.array([1, 2, 4, 8, 9, 2, 3, 4]), np.array(["en"] * 5 + ["zh"] * 3)
    rules = rehydration.copy_rules(params, sizes, languages, sizes < 0)
    assert rehydration.copy_counts(sizes, languages, rules, sizes > 0).tolist() == [1, 2, 3, 3, 1, 1, 7, 7]
    assert rehydration.copy_counts(sizes, languages, rules, sizes < 0).tolist() == [1] * 8


def test_copies_stand_behind_their_document() -> None:
    table = pa.table({"id": ["a", "b"], "copies": [1, 3]})
    assert rehydration.rehydrate(table)["id"].to_pylist() == ["a", "b", "b#2", "b#3"]


@pytest.mark.parametrize("copies", [{0: 2}, {2: 0}, {}, "guessed"])
def test_tables_that_make_no_sense(copies: object) -> None:
    with pytest.raises(ValidationError):
        Params.model_validate({"copies": copies})


def test_the_stage_measures(tmp_path: Path) -> None:
    """The filters drop half of the unrepeated documents and none of those in clusters of three, which get 4 copies."""
    thrice = {f"thrice {i}.{n}": PROSE.format(f"topic{i}") + f" {i}" * 9 for i in range(4) for n in range(3)}
    once = {f"once {i}": PROSE.format(f"other{i}").replace("years", f"word{i} " * 30) for i in range(3)}
    ingest(tmp_path, thrice | once | {f"bad {i}": f"The word {i} is all." for i in range(3)})
    settings = {"copies": "measured", "max_copies": 4, "min_clusters": 1, "window": 1}
    curate(tmp_path, report=True, filters=["gopher_quality"], rehydration=settings)
    names = tables.read(tmp_path / "curated")["id"].to_pylist()
    ids = ["thrice 0.0", "thrice 0.0#2", "thrice 0.0#3", "thrice 0.0#4"]
    assert [name for name in names if name.startswith("thrice 0")] == ids
    assert sum(name.startswith("once") for name in names) == 3
    assert read_json(tmp_path / "reports" / "curation.json")["counts"]["copies"] == 4 * 3
    rows = (tmp_path / "reports/curation/rehydration.csv").read_text().splitlines()
    assert rows == ["language,size,copies,clusters,drop_rate", "en,1,1,6.0,0.5", "en,3,4,4.0,0.0"]
