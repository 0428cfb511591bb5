"""Progress where stderr is not a terminal: plain lines with rate and remaining time, not one line for each unit."""

import time

import pytest

from tasks import progress


def test_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 5.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.Progress("sft", 100, "steps") as bar:
        bar.advance(10)
        bar.advance(30, note="loss 2.1")
    assert capsys.readouterr().err == "sft: 40/100 steps, ETA 30 s, 2.0 steps/s  loss 2.1\n"


def test_units_of_an_earlier_run_do_not_raise_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 20.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.Progress("sft", 100, "steps", initial=50) as bar:
        bar.advance(10)
    assert capsys.readouterr().err == "sft: 60/100 steps, ETA 80 s, 0.5 steps/s\n"


def test_bytes_are_printed_in_megabytes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.Progress("curation", 300_000_000, "B", scale=True) as bar:
        bar.advance(100_000_000)
    assert capsys.readouterr().err == "curation: 100/300 MB, ETA 40 s, 5.0 MB/s\n"
