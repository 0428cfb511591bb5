"""Two versions of the data that differ in known ways."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tasks.comparison import data_versions
from tasks.errors import BadInput


def make_version(data: Path, texts: dict[str, str], dropped: dict[str, str]) -> Path:
    """Write curated/ and dropped/documents/ below `data`; dropped: id -> reason."""
    (data / "curated").mkdir(parents=True)
    (data / "dropped/documents").mkdir(parents=True)
    kept = {"id": list(texts), "text": list(texts.values()), "source": ["web"] * len(texts)}
    kept["language"] = ["zh" if text[0] > "\u4e00" else "en" for text in texts.values()]
    parquet.write_table(pa.table(kept), data / "curated/00000.parquet")
    rows = {"id": list(dropped), "source": ["web"] * len(dropped), "reason": list(dropped.values())}
    parquet.write_table(pa.table(rows), data / "dropped/documents/00000.parquet")
    return data


def test_new_vanished_and_changed_documents(tmp_path: Path) -> None:
    a = make_version(tmp_path / "a", {"1": "one", "2": "two!", "4": "春天来了"}, {"9": "spam.links"})
    b = make_version(tmp_path / "b", {"1": "one", "2": "two", "3": "three"}, {})
    result = data_versions.compare(data_versions.read("a", a), data_versions.read("b", b))
    assert [result[name]["number"] for name in ("new", "vanished", "changed")] == [1, 1, 1]
    assert result["new"]["examples"] == [{"id": "4", "text": "春天来了"}]
    assert result["languages"] == {"en": {"a": 2, "b": 3}, "zh": {"a": 1, "b": 0}}
    assert result["dropped_by_reason"] == {"spam.links": {"a": 1, "b": 0}}
    assert "1 new, 1 vanished, 1 with another text" in data_versions.markdown(result)


def test_signals_are_shares_of_characters() -> None:
    signals = data_versions.measure(pa.array(["A1 b\nc", "春天"]))
    assert signals["characters"].tolist() == [6, 2]
    assert signals["lines"].tolist() == [2, 1]
    assert signals["digit_share"].tolist() == pytest.approx([1 / 6, 0])
    assert signals["non_ascii_share"].tolist() == [0, 1]


def test_the_drift_statistic_is_0_for_equal_and_1_for_disjoint_values() -> None:
    values = np.arange(10.0)
    assert data_versions.kolmogorov_smirnov(values, values) == 0
    assert data_versions.kolmogorov_smirnov(values, values + 20) == 1
    assert data_versions.kolmogorov_smirnov(values, values + 2) == pytest.approx(0.2)


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Run curation there first"):
        data_versions.read("a", tmp_path)
