"""The catalog: a file's name is its registration, and a wrong name is answered with the right ones."""

import pytest

from tasks import catalog
from tasks.errors import BadParams


def test_modules_are_found_by_name() -> None:
    assert "numbers" in catalog.names("tasks.ingestion.sources")
    assert catalog.find("tasks.ingestion.sources", "numbers").__name__ == "tasks.ingestion.sources.numbers"


def test_a_wrong_name_is_answered_with_the_right_ones() -> None:
    with pytest.raises(BadParams, match=r"no source 'numbres'; did you mean 'numbers'\? available: .*numbers"):
        catalog.find("tasks.ingestion.sources", "numbres")
