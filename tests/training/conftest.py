"""Fixtures that several tests of training share."""

from pathlib import Path

import pytest

from tests.tokenization.small_data import write_curated
from tests.tokenization.test_tasks import tokenize


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the tokens of a small corpus."""
    data = tmp_path_factory.mktemp("data")
    write_curated(data)
    tokenize(data)
    return data
