"""The arithmetic of the estimate of a curation, with known answers."""

import pytest

from flows import curation_estimate
from flows.curation_estimate import Cluster


def test_the_arithmetic_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 MB per CPU-second: 3.6 TB are 100 CPU-hours. 16 bands of 10^9 documents at 10^6 rows/s are 4.44 CPU-hours."""
    monkeypatch.setattr(curation_estimate, "CURATION_RATE", 10e6)
    monkeypatch.setattr(curation_estimate, "ROWS_RATE", 1e6)
    text = "\n".join(curation_estimate.lines(1e9, 3.6e12, Cluster(nodes=2, cores=10, price_per_hour=3)))
    assert "3.6 TB / 10 MB per CPU-second = 100 CPU-hours" in text
    assert "1e+09 documents x 16 bands = 1.6e+10 rows / 1e+06 per CPU-second = 4 CPU-hours" in text
    assert "104 CPU-hours / 20 cores = 5.22 hours" in text
    assert "256 GB (256 B per document), 128 GB per node" in text
    assert "price: 5.22 hours x 2 nodes x 3 = 31" in text
    assert "datatrove (FineWeb): 3.6 TB / 0.78 MB/s = 1,282 CPU-hours, 12.3 times as many" in text


def test_sizes() -> None:
    assert [curation_estimate.size(n) for n in (999, 1.5e6, 2e9, 3.25e12, 1e16)] == [
        "999 B",
        "1.5 MB",
        "2 GB",
        "3.25 TB",
        "10 PB",
    ]
