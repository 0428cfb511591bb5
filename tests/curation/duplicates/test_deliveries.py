"""Deliveries one after another: earlier documents stay, repeated ones are dropped, and repetition changes nothing."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tasks.curation.duplicates import deliveries, minhash
from tasks.errors import BadInput
from tasks.files import sha256

PARAMS = minhash.Params()


def document(seed: int, edit: int = -1) -> str:
    rng = random.Random(seed)
    words = [f"w{rng.randrange(5000)}" for _ in range(120)]
    if edit >= 0:
        words[edit] = "edited"
    return " ".join(words)


def deliver(index: Path, name: str, texts: dict[str, str], params: minhash.Params = PARAMS) -> dict[str, str]:
    """Return the dropped ids, each with the id that it duplicates."""
    ids, array = pa.array(list(texts), pa.string()), pa.array(list(texts.values()), pa.large_string())
    duplicate_of = deliveries.add_delivery(index, name, array, ids, params, np.zeros(len(texts)))
    return {id: kept for id, kept in zip(texts, duplicate_of.to_pylist(), strict=True) if kept is not None}


def files(index: Path) -> dict[str, str]:
    return {str(path.relative_to(index)): sha256(path) for path in sorted(index.rglob("*")) if path.is_file()}


MONDAY = {"a": document(1), "b": document(1, 60), "c": document(2), "short": "too short"}
TUESDAY = {"d": document(1, 30), "e": document(3), "f": document(4), "g": document(4, 9), "h": "too  short"}
WEDNESDAY = {"i": document(3, 50), "j": document(4, 99), "k": document(5)}


def test_a_delivery_loses_to_those_before_it(tmp_path: Path) -> None:
    assert deliver(tmp_path, "monday", MONDAY) == {"a": "b"}  # the longer one stays
    assert deliver(tmp_path, "tuesday", TUESDAY) == {"d": "b", "f": "g", "h": "short"}
    assert deliver(tmp_path, "wednesday", WEDNESDAY) == {"i": "e", "j": "g"}


def test_delivering_again_changes_nothing(tmp_path: Path) -> None:
    week = {"monday": MONDAY, "tuesday": TUESDAY, "wednesday": WEDNESDAY}
    results = {name: deliver(tmp_path, name, texts) for name, texts in week.items()}
    before = files(tmp_path)
    for name in ("tuesday", "monday", "wednesday", "monday"):
        assert deliver(tmp_path, name, week[name]) == results[name]
    assert files(tmp_path) == before


def test_a_cluster_that_meets_an_old_document_goes_whole(tmp_path: Path) -> None:
    """x is no duplicate of the old document (J = 0.77), but y is one of both (J = 0.84)."""
    words = document(7).split()

    def edited(*places: int) -> str:
        return " ".join("edited" if i in places else word for i, word in enumerate(words))

    params = minhash.Params(bands=112, rows=1)
    assert deliver(tmp_path, "old", {"old": edited()}, params) == {}
    assert deliver(tmp_path, "x alone", {"x": edited(20, 60, 100)}, params) == {}
    fresh = tmp_path / "fresh"
    deliver(fresh, "old", {"old": edited()}, params)
    assert deliver(fresh, "both", {"x": edited(20, 60, 100), "y": edited(20, 60)}, params) == {"x": "old", "y": "old"}


def test_a_killed_run_leaves_nothing_that_counts(tmp_path: Path) -> None:
    deliver(tmp_path, "monday", MONDAY)
    deliver(tmp_path, "tuesday", TUESDAY)
    complete = files(tmp_path)
    (tmp_path / "00001" / deliveries.MANIFEST).unlink()
    assert [delivery.name for delivery in deliveries.read_deliveries(tmp_path)] == ["monday"]
    deliver(tmp_path, "tuesday", TUESDAY)
    assert files(tmp_path) == complete


def test_other_params_and_a_changed_past_are_refused(tmp_path: Path) -> None:
    deliver(tmp_path, "monday", MONDAY)
    with pytest.raises(BadInput, match="shingle_size 5, not shingle_size 4"):
        deliver(tmp_path, "tuesday", TUESDAY, minhash.Params(shingle_size=4))
    deliver(tmp_path, "monday", MONDAY | {"z": document(9)})  # allowed: no later delivery has been compared with it
    deliver(tmp_path, "tuesday", TUESDAY)
    with pytest.raises(BadInput, match="under a new name"):
        deliver(tmp_path, "monday", MONDAY)


def test_an_index_with_other_bands_is_refused_with_the_settings_that_fit_it(tmp_path: Path) -> None:
    deliver(tmp_path, "monday", MONDAY, minhash.Params(bands=14, rows=8))
    message = (
        r"bands 14, rows 8, not bands 16, rows 7\. Start a new index in another folder \(curation\.deliveries in "
        r"params\.yaml\), or keep this one by setting curation\.minhash to \{ bands: 14, rows: 8 \}\."
    )
    with pytest.raises(BadInput, match=message):
        deliver(tmp_path, "tuesday", TUESDAY)
    with pytest.raises(BadInput, match=r"num_permutations 112, .* not num_permutations 240, bands 60, rows 4"):
        deliver(tmp_path, "tuesday", TUESDAY, minhash.Params(threshold=0.47))
    assert deliver(tmp_path, "tuesday", TUESDAY, minhash.Params(bands=14, rows=8)) == {"d": "b", "f": "g", "h": "short"}


def test_a_lower_threshold_with_the_same_bands_is_compared(tmp_path: Path) -> None:
    bands: dict[str, int] = {"bands": 28, "rows": 4}
    deliver(tmp_path, "monday", MONDAY, minhash.Params(**bands))
    assert deliver(tmp_path, "tuesday", TUESDAY, minhash.Params(threshold=0.6, **bands))["d"] == "b"


def test_many_small_deliveries_keep_what_one_large_one_keeps(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = {f"{i:03d}": document(rng.randrange(40), rng.randrange(-1, 120)) for i in range(150)}
    names = list(texts)
    dropped: dict[str, str] = {}
    for part in range(0, 150, 30):
        dropped |= deliver(tmp_path / "many", f"part {part}", {id: texts[id] for id in names[part : part + 30]})
    assert len(texts) - len(dropped) == len(texts) - len(deliver(tmp_path / "one", "all", texts))


def test_an_empty_delivery_is_one_too(tmp_path: Path) -> None:
    assert deliver(tmp_path, "nothing", {}) == {}
    assert deliver(tmp_path, "monday", MONDAY) == {"a": "b"}


def test_the_stage_asks_by_content(tmp_path: Path) -> None:
    def accept(texts: dict[str, str]) -> dict[str, str]:
        ids, array = pa.array(list(texts), pa.string()), pa.array(list(texts.values()), pa.large_string())
        duplicate_of = deliveries.deduplicate(tmp_path, array, ids, PARAMS, np.zeros(len(texts)))
        return {id: kept for id, kept in zip(texts, duplicate_of.tolist(), strict=True) if kept is not None}

    assert accept(MONDAY) == {"a": "b"}
    before = files(tmp_path)
    assert accept(dict(reversed(MONDAY.items()))) == {"a": "b"}
    assert files(tmp_path) == before
    assert accept(TUESDAY | MONDAY) == {"a": "b", "d": "b", "f": "g", "h": "short"}
    assert accept({"a": MONDAY["a"]}) == {"a": "b"}  # earlier documents need not be delivered again
    assert accept({"a": document(8)}) == {}  # another text is another document, whatever its id
    assert accept({"a": document(8, 3), "z": document(8)}) == {"z": "a"}
    assert len(deliveries.read_deliveries(tmp_path)) == 4
