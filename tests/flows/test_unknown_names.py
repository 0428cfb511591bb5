"""What an argument names may not exist, be empty or be damaged: one message and exit code 2, and no new database."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import comparison, export, lineage, promotion, reproduction, scoring
from flows.runtime import tracking
from tests.promotion.small import make_run

ROOT = Path(__file__).parents[2]
RUN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that never ran is the current folder; returns where MLflow's database would be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(tracking, "send_in_background", lambda: None)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name, text in {"empty.txt": "", "one.txt": "a\n", "two.txt": "a\nb\n"}.items():
        Path(name).write_text(text, encoding="utf-8")
    Path("empty").mkdir()
    return tmp_path / "mlflow.db"


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Any, text: str) -> str:
    """Run a command, which has to end with exit code 2, and return its message."""
    monkeypatch.setattr("sys.argv", ["x", *(argument.replace("''", "") for argument in text.split())])
    assert command.main() == 2
    message = capsys.readouterr().err
    assert message.startswith("athanor: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (lineage, "ppo", "there is no run in MLflow"),
        (lineage, "ppo/3", "there is no run in MLflow"),
        (lineage, "champion", "there is no run in MLflow"),
        (lineage, "ppo@champion", "there is no run in MLflow"),
        (lineage, "ppo/x", "expected NAME, NAME/VERSION or NAME@ALIAS"),
        (comparison, "no one", "'no' is neither a run nor a model"),
        (comparison, "1 champion", "'1' is neither a run nor a model"),
        (comparison, "empty empty", "empty contains neither evaluation.json nor a model"),
        (comparison, "ppo/3 ppo@champion", "'ppo/3' is neither a run nor a model"),
        (comparison, f"{RUN} sft", "there is no run in MLflow"),
        (comparison, "'' ''", "'' names no run"),
        (comparison, "--data no one", "'no' is neither a folder with curated/"),
        (comparison, "--data empty empty", "'empty' is neither a folder with curated/"),
        (reproduction, RUN, "there is no run in MLflow"),
        (reproduction, "0123 --restore", "there is no run in MLflow"),
        (export, "ppo --to gguf", "there is no model 'ppo' in data/models (available: none)"),
        (export, "champion --to gguf", "there is no model 'champion'"),
        (export, "data/models/sft --to gguf", "there is no model 'data/models/sft'"),
        (export, "empty --to gguf", "empty is no model folder"),
        (export, "'' --to gguf", "there is no model ''"),
        (promotion, "update", "there is no trained model"),
        (promotion, "promote 3", "there is no version 3"),
        (promotion, "rollback", "there is no earlier champion"),
        (scoring, "--hypotheses no.txt --references one.txt", "no.txt cannot be read"),
        (scoring, "--hypotheses empty --references one.txt", "empty cannot be read"),
        (scoring, "--hypotheses empty.txt --references one.txt", "empty.txt is empty"),
        (scoring, "--hypotheses two.txt --references one.txt", "two.txt has 2 lines, but one.txt has 1"),
    ],
)
def test_what_does_not_exist(
    command: Any, arguments: str, expected: str, database: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert expected in fails(monkeypatch, capsys, command, arguments)
    assert not database.exists()
    assert not Path("data/exports").exists()
    assert not Path("data/reports").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema_version": 99}', '{"schema_version": 1, "measured": 3}'])
def test_a_damaged_report(damage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("data"), 0.0, "first")
    Path("data/reports/evaluation.json").write_text(damage, encoding="utf-8")
    assert "evaluation.json" in fails(monkeypatch, capsys, comparison, "data sft")


@pytest.mark.parametrize("name", ["evaluation/items/gold.parquet", "sft/steps.csv"])
def test_damaged_tables(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("data"), 0.0, "first")
    (path := Path("data/reports", name)).parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xfe\x00damaged")
    assert name in fails(monkeypatch, capsys, comparison, "data sft")


@pytest.mark.parametrize("name", ["log.jsonl", "versions/1/version.json"])
def test_damaged_promotions(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(Path("data"), 0.0, "first")
    monkeypatch.setattr("sys.argv", ["x", "update"])
    assert promotion.main() == 0
    capsys.readouterr()
    Path("data/promotion", name).write_text("[]\n", encoding="utf-8")
    assert name in fails(monkeypatch, capsys, promotion, "promote 1")
    assert name in fails(monkeypatch, capsys, comparison, "1 sft")


def test_a_refused_export_leaves_no_folder() -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text("{}", encoding="utf-8")
    assert export.main(["model", "--to", "gguf"]) == 5
    assert not Path("data/exports/model-gguf").exists()


def test_a_damaged_database_of_mlflow(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database.write_text("no database", encoding="utf-8")
    assert "does not answer" in fails(monkeypatch, capsys, lineage, "ppo")
