"""The alarm of a pretraining whose curve leaves the band of its registered forecast, while it trains."""

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import ladder
from tasks.errors import BadInput, BadParams
from tasks.files import write_json
from tasks.training import tasks as training

FORECAST: dict[str, Any] = {  # L = 1 + 0 + 10 / D: 1.01 after all 1,000 tokens, 1.02 after 500
    "weights": 100.0, "tokens": 1000.0, "loss": 1.01, "interval_95": [1.0, 1.02], "unit": "bits per byte",
    "law": {"E": 1.0, "A": 0.0, "a": 1.0, "B": 10.0, "b": 1.0, "g": 1.0},
    "curve": {"mean": 0.05, "deviation": 0.01, "min_tokens": 200.0},
}  # fmt: skip
RUN = SimpleNamespace(steps=100, global_batch_size=2, sequence_length=5, base=None, objective="causal")


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose tokens are bytes, and whose pretraining has 100 weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ladder, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(training, "num_weights", lambda *_: 100)
    counts = {"validation": {"num_tokens": 7, "num_bytes": 7}}
    write_json(Path("data/tokens/manifest.json"), {"vocab_size": 300, "documents": counts})


def steps(*losses: float) -> str:
    """A log of steps with evaluations at steps 10, 30, 50 ...; losses in bits per byte, 0 for a row without one."""
    rows = [f"{10 + 20 * i},{loss * math.log(2) if loss else ''}" for i, loss in enumerate(losses)]
    return "\n".join(["step,validation_loss", *rows])


def test_an_alarm_comes_while_the_run_trains(capsys: pytest.CaptureFixture[str]) -> None:
    """After 500 tokens the law says 1.02, and the band ends near 1.02 e^(.05 + .022) = 1.096."""
    write_json(Path("data/ladder/forecast.json"), FORECAST)
    with ladder.watching(RUN, Path()):
        Path("steps.csv").write_text(steps(9.0, 0, 1.3), encoding="utf-8")  # the first one is before the band
        time.sleep(0.2)
        early = capsys.readouterr().err
        Path("steps.csv").write_text(steps(9.0, 0, 1.3, 1.4), encoding="utf-8")  # still outside: no further alarm
    assert early.count("ALARM") == 1
    assert "after 500 tokens the validation loss is 1.3000 bits per byte, above the band [1.0099, 1.09" in early
    assert not capsys.readouterr().err


def test_no_alarm_inside_the_band_or_for_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    Path("steps.csv").write_text(steps(0, 1.09, 1.06), encoding="utf-8")
    with ladder.watching(RUN, Path()):
        pass  # there is no forecast
    write_json(Path("data/ladder/forecast.json"), FORECAST)
    with ladder.watching(RUN, Path()):
        pass
    Path("steps.csv").write_text(steps(0, 9.0), encoding="utf-8")
    with ladder.watching(SimpleNamespace(**{**vars(RUN), "steps": 200}), Path()):
        pass
    assert not capsys.readouterr().err


def test_too_few_runs_for_a_law_are_refused_before_the_first_one() -> None:
    with pytest.raises(BadParams, match="without the largest rung 4 runs are left, but a scaling law needs 6"):
        ladder._register(ladder._parse(["--budgets", "2"]))


def test_a_damaged_forecast_stops_no_training(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/ladder").mkdir()
    Path("data/ladder/forecast.json").write_text("{", encoding="utf-8")
    with ladder.watching(RUN, Path()):
        pass
    assert "no alarm can be raised" in capsys.readouterr().err


def test_a_comparison_without_its_files_says_which_is_missing() -> None:
    with pytest.raises(BadInput, match=r"there is no data/reports/pretrain\.json"):
        ladder._compare()
    write_json(Path("data/reports/pretrain.json"), {"counts": {"num_parameters": 1, "num_tokens": 1}})
    with pytest.raises(BadInput, match="has measured no validation loss"):
        ladder._compare()
