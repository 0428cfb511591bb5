"""What the pipeline prints at its end."""

from pathlib import Path

import pytest

from flows.runtime import results
from tasks import files, reports

TIMINGS = {"peak_share": 0.12, "steps.passes": 60.0, "steps.optimizer": 30.0, "steps.batches": 9.5, "load": 5.0}


@pytest.mark.parametrize(
    ("timings", "text"),
    [
        (TIMINGS | {"peak_share": 0.3}, ""),
        ({}, ""),  # no stage of training, or a GPU whose peak is not known
        (
            TIMINGS | {"steps.evaluation": 0.5},  # too short to be named
            "12% of the processor's peak of matrix products; the time: forward and backward passes 60%, "
            "the optimizer 30%, data and rollouts 10%",
        ),
        ({"peak_share": 0.05}, "5% of the processor's peak of matrix products"),
    ],
)
def test_a_slow_stage_says_what_takes_its_time(timings: dict[str, float], text: str) -> None:
    assert results.describe_low_speed(timings) == text


def test_the_table_names_slow_stages_that_have_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reports, "TIMINGS", tmp_path)
    monkeypatch.setattr(results, "SECONDS", tmp_path / "seconds")
    for stage in ("pretrain", "sft"):
        files.write_json(tmp_path / f"{stage}.json", TIMINGS)
        results.record(stage, 100.0, 90.0, 10**9)
    results.show(("pretrain", "sft"), {"pretrain": "run", "sft": "restored"}, 200.0, False, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "peak of" in line] == [f"pretrain: {results.describe_low_speed(TIMINGS)}"]


def test_own_test_sets_are_among_the_printed_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 40}
    sets = {"handbook": {"accuracy": {"sft": score}, "bits_per_byte": {"sft": score}, "about": {"rows": 40}}}
    files.write_json(tmp_path / "reports/evaluation.json", {"schema_version": 1, "benchmarks": sets})
    results.show(("evaluation",), {"evaluation": "run"}, 1.0, False, tmp_path)
    assert "handbook.accuracy    sft 0.5 [0.4, 0.6] n=40" in capsys.readouterr().out.splitlines()


def test_the_stages_that_ran_before_a_failed_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "SECONDS", tmp_path)
    results.record("sft", 1.0, 1.0, 1)
    written = (tmp_path / "sft.json").stat().st_mtime
    assert results.ran_since(written, ("pretrain", "sft")) == {"sft": "run"}
    assert results.ran_since(written + 1, ("pretrain", "sft")) == {}
