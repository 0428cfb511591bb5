"""What a stage records about its base model."""

from pathlib import Path

import pytest

from tasks.training.loop.stage_files import _place_independent, base_model


@pytest.mark.parametrize("data", [Path("data"), Path("/elsewhere/data")])
def test_the_recorded_base_does_not_depend_on_the_place_of_the_data(data: Path) -> None:
    assert _place_independent(base_model(None, "sft", data), data) == "data/models/sft"
    assert _place_independent("gpt2", data) == "gpt2"
