"""Reports: the same content gives the same bytes, also for figures."""

from pathlib import Path

from matplotlib.figure import Figure

from tasks import reports
from tasks.files import read_json, sha256
from tasks.reports import Report, Score, Timings


def report() -> Report:
    figure = Figure()
    figure.subplots().plot([1, 2, 3])
    return Report(
        "sft",
        counts={"rows": 2},
        scores={"exact_match": {"sft": Score(0.5, 0.4, 0.6, 10)}, "steps": 3},
        notes=["look here"],
        tables={"steps": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}], "empty": []},
        figures={"loss": figure},
    )


def test_a_report_is_files(tmp_path: Path) -> None:
    report().write(tmp_path)
    assert read_json(tmp_path / "sft.json") == {
        "exact_match": {"sft": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}},
        "steps": 3,
        "counts": {"rows": 2},
        "notes": ["look here"],
        "schema_version": 1,
    }
    assert (tmp_path / "sft/steps.csv").read_text() == "step,loss\n1,2.5\n2,2.0\n"


def test_same_content_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        report().write(tmp_path / name)
    for file in ("sft.json", "sft/steps.csv", "sft/loss.png"):
        assert sha256(tmp_path / "a" / file) == sha256(tmp_path / "b" / file)


def test_timings_add_up_by_part(tmp_path: Path) -> None:
    timings = Timings("sft", tmp_path)
    for _ in range(2):
        with timings.measure("steps"):
            pass
    timings.write()
    assert list(read_json(tmp_path / "sft.json")) == ["steps"]


def test_a_table_keeps_carriage_returns_and_line_ends(tmp_path: Path) -> None:
    rows = [{"answer": "a\rb", "score": "1"}, {"answer": 'c\r\nd, "e"', "score": ""}, {"answer": "f", "score": "2"}]
    reports.write_csv(tmp_path / "table.csv", rows)
    assert reports.read_csv(tmp_path / "table.csv") == rows
    assert (tmp_path / "table.csv").read_bytes().startswith(b'answer,score\n"a\rb",1\n')
    reports.write_csv(tmp_path / "table.csv", [])
    assert reports.read_csv(tmp_path / "table.csv") == []
