"""Bands and rows that follow from the threshold find the pairs at the threshold; others cause a warning."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.curation import tasks
from tasks.curation.duplicates import clusters, minhash
from tasks.curation.duplicates.banding import LARGEST_SIGNATURE, MAX_PERMUTATIONS, derive_banding, recall
from tasks.files import read_json
from tests.curation.test_curation import PROSE, curate, ingest

THRESHOLDS = [0.05, 0.2, 0.3, 0.4, 0.47, 0.5, 0.57, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]


def test_recall_by_hand() -> None:
    """1 - (1 - .5^2)^3 = 1 - .75^3 = .578125. The 14 bands of 8 rows of FineWeb have .924 at .8, but .033 at .47."""
    assert recall(0.5, 3, 2) == pytest.approx(0.578125)
    assert recall(0.8, 14, 8) == pytest.approx(0.924, abs=0.0005)
    assert recall(0.8, 16, 7) == pytest.approx(0.977, abs=0.0005)
    assert recall(0.47, 14, 8) == pytest.approx(0.033, abs=0.0005)
    assert (recall(0.0, 14, 8), recall(1.0, 14, 8)) == (0.0, 1.0)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_derived_bandings_find_95_percent_at_the_threshold(threshold: float) -> None:
    bands, rows = derive_banding(threshold)
    assert recall(threshold, bands, rows) >= 0.95
    assert bands * rows <= MAX_PERMUTATIONS
    assert minhash.Params(threshold=threshold).low_recall_warning() is None


def test_bandings_of_some_thresholds() -> None:
    assert {threshold: derive_banding(threshold) for threshold in (0.47, 0.5, 0.57, 0.8, 0.9)} == {
        0.47: (60, 4),
        0.5: (47, 4),
        0.57: (28, 4),
        0.8: (16, 7),
        0.9: (10, 11),
    }
    assert minhash.Params().banding() == (16, 7)
    assert [minhash.Params(threshold=t).signature_size() for t in (0.47, 0.8)] == [240, 112]


def test_higher_thresholds_have_no_fewer_rows() -> None:
    rows = [derive_banding(threshold)[1] for threshold in THRESHOLDS]
    assert all(lower <= higher for lower, higher in pairwise(rows))


def test_a_fixed_size_of_signatures_is_a_limit() -> None:
    assert derive_banding(0.47, 112) == (37, 3)
    assert derive_banding(0.05, 20) == (20, 1)
    assert minhash.Params(threshold=0.47, num_permutations=112).signature_size() == 112
    warning = minhash.Params(threshold=0.05, num_permutations=20).low_recall_warning()
    assert warning is not None
    assert "20 bands of 1 rows find only 64.2% of the pairs with a similarity of 0.05" in warning


def test_tiny_thresholds_are_bounded() -> None:
    assert derive_banding(0.01) == (299, 1)
    assert derive_banding(1e-6) == (LARGEST_SIGNATURE, 1)


@pytest.mark.parametrize("threshold", [0.4, 0.47, 0.57, 0.8, 0.9])
def test_simulated_pairs_are_found(threshold: float) -> None:
    """Values of two signatures are equal with probability J. Of 4,000 pairs with t <= J < t + .02, 95 % are found."""
    generator = np.random.default_rng(0)
    bands, rows = minhash.Params(threshold=threshold).banding()
    similarity = threshold + 0.02 * generator.random(4000)
    first = generator.integers(0, 1 << 32, (4000, bands * rows), np.uint32)
    is_equal = generator.random(first.shape) < similarity[:, None]
    second = np.where(is_equal, first, first + np.uint32(1))
    is_candidate = (clusters.band_keys(first, bands, rows) == clusters.band_keys(second, bands, rows)).any(axis=0)
    assert is_candidate.mean() >= 0.95
    assert is_candidate.mean() == pytest.approx(recall(similarity, bands, rows).mean(), abs=0.015)


@pytest.mark.parametrize(
    ("params", "shares"),
    [
        ({"threshold": 0.47, "bands": 14, "rows": 8}, ("only 3.3% of", "60 bands of 4 rows", "find 95.0%")),
        ({"threshold": 0.57, "bands": 14, "rows": 8}, ("only 14.5% of", "28 bands of 4 rows", "find 95.6%")),
        ({"bands": 14, "rows": 8}, ("only 92.4% of", "16 bands of 7 rows", "find 97.7%")),
    ],
)
def test_a_given_banding_with_low_recall_causes_a_warning(params: dict[str, Any], shares: tuple[str, ...]) -> None:
    warning = minhash.Params(**params).low_recall_warning()
    assert warning is not None
    assert all(share in warning for share in shares)


def test_the_stage_prints_and_reports_the_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tasks.Params().minhash == minhash.Params(), "the defaults cause no warning"
    ingest(tmp_path, {"a": PROSE.format("history"), "b": PROSE.format("boats")})
    curate(tmp_path, report=True, minhash={"bands": 14, "rows": 8})
    notes = read_json(tmp_path / "reports" / "curation.json")["notes"]
    assert notes == [minhash.Params(bands=14, rows=8).low_recall_warning()]
    assert f"warning: {notes[0]}" in capsys.readouterr().err
