"""The commands promotion and comparison in a small project, and MLflow's aliases after them."""

import json
import shutil
from pathlib import Path

import pytest

from flows import comparison, promotion
from flows.runtime import params, spool, tracking, versioning
from flows.runtime.sender import Sender
from flows.serving import registry
from flows.versions import contents, subjects
from tasks.errors import BadInput, BadParams
from tasks.files import read_json
from tests.promotion.small import make_model, make_report, make_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose model sft has passed its gates; nothing is sent to MLflow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "send_in_background", lambda: None)
    monkeypatch.setattr(subjects, "hardware", lambda: "a machine")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    make_run(Path("data"), 0.0, "first")
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, command, *arguments: str) -> int:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("sys.argv", ["x", *arguments])
    return int(command.main())


def test_update_status_promote_and_rollback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, promotion, "rollback") == 2
    assert "no earlier champion" in capsys.readouterr().err
    assert call(monkeypatch, promotion, "update") == 0
    make_run(Path("data"), 0.1, "second")
    assert call(monkeypatch, promotion, "update", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["champion"] == 2
    assert call(monkeypatch, promotion, "rollback", "--reason", "complaints") == 0
    assert call(monkeypatch, promotion, "status", "--json") == 0
    status = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (status["champion"], status["candidate"]) == (1, 2)
    assert [row["aliases"] for row in status["versions"]] == [["champion"], ["candidate"]]
    assert call(monkeypatch, promotion, "promote", "7") == 2
    assert call(monkeypatch, promotion, "status") == 0
    assert "champions so far: 1" in capsys.readouterr().out


def test_the_pipeline_gets_tags_and_leaves_a_record_for_mlflow() -> None:
    tags = promotion.after_evaluation("c0ffee")
    assert tags["champion"] == "1"
    assert "version 1 (sft) is the champion" in tags["promotion"]
    assert "version 1 (sft) is the champion" in Path("data/promotion/report.html").read_text(encoding="utf-8")
    (record,) = [read_json(path) for path in spool.folder().glob("*/record.json")]
    assert (record["kind"], record["aliases"]) == ("promotion", {"candidate": 1, "champion": 1})
    assert record["version"]["commit"] == "c0ffee"
    assert "model-index" in record["card"]
    assert promotion.after_evaluation("c0ffee")["champion"] == "1"  # the same again is no move
    assert len(list(spool.folder().glob("*/record.json"))) == 1


def test_the_model_of_a_round_is_compared_with_the_champion() -> None:
    """A failed gate, a better model, and the same call again after a kill: one version and one champion."""
    promotion.after_evaluation(None)
    data, own = Path("data"), Path("data/rounds/001")
    digest = make_model(own, "round", "dpo")
    make_report(own, 0.1, "dpo", gates_failed=1)
    assert "not registered" in promotion.after_round("round-001", own, "dpo", data)[0]
    make_report(own, 0.1, "dpo")
    for _ in range(2):
        assert "version 2 (dpo)" in promotion.after_round("round-001", own, "dpo", data)[0]
    status = promotion.status()
    assert (status["champion"], len(status["versions"]), status["versions"][1]["model"]) == (2, 2, digest)
    assert (data / "models/champion/model.safetensors").read_text() == "round"
    records = [read_json(path)["version"] for path in spool.folder().glob("*/record.json")]
    assert [record.get("round") for record in records if record["athanor.version"] == 2] == ["round-001"]


def test_a_person_promotes_the_model_of_a_round_without_automatic_promotion() -> None:
    with open("params.yaml", "a", encoding="utf-8") as file:
        file.write("promotion: { automatic: false }\n")
    assert "left to a person" in promotion.after_round("round-001", Path("data/rounds/001"), "dpo", Path("data"))[0]
    assert promotion.status()["versions"] == []


def test_a_pipeline_with_nothing_to_do_judges_what_an_interrupted_one_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import pipeline

    monkeypatch.setattr(versioning, "stages", lambda to: [])
    monkeypatch.setattr(versioning, "reproduce", lambda *arguments: None)
    monkeypatch.setattr(pipeline, "_tags", lambda session: {})
    for expected in (None, 1, 1):
        assert pipeline.pipeline.fn() == {}
        assert promotion.status()["champion"] == expected
        if expected is None:
            Path(".run").mkdir(exist_ok=True)
            Path(".run/unjudged").touch()
    assert not pipeline.is_unjudged()


def test_a_server_gets_the_files_of_one_version() -> None:
    promotion.after_evaluation(None)
    first = Path(registry.find_folder("champion", Path("data")))
    make_run(Path("data"), 0.1, "second")
    promotion.after_evaluation(None, "run 7")
    page = Path("data/promotion/report.html").read_text(encoding="utf-8")
    assert page.index("version 2 (sft) is the champion") < page.index("Version 1 was the champion before")
    assert "run: run 7" in page
    assert "| gold.sft | " in Path("data/promotion/report.md").read_text(encoding="utf-8")
    second = Path(registry.find_folder("champion", Path("data")))
    assert (first / "model.safetensors").read_text() == "first"
    assert (second / "model.safetensors").read_text() == "second"
    assert not second.is_symlink()


def test_the_section_promotion_has_defaults_and_is_checked(project: Path) -> None:
    assert params.load("promotion").automatic  # type: ignore[attr-defined]
    with open("params.yaml", "a", encoding="utf-8") as file:
        file.write("promotion: { margin: 2, automatic: false }\n")
    with pytest.raises(BadParams, match=r"promotion\.margin"):
        params.load("promotion")


def test_comparison_of_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    promotion.after_evaluation(None)
    make_run(Path("data"), 0.1, "second", seed=4)
    assert call(monkeypatch, comparison, "sft", "champion", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (result["verdict"]["outcome"], result["metrics"][0]["metric"]) == ("better", "gold.sft")
    assert len(result["examples"]["wins"]) == 5
    assert Path("data/reports/comparison/comparison.html").is_file()
    assert call(monkeypatch, comparison, "data", "1", "--margin", "0.5", "--examples", "0") == 0
    assert "is better than 1 on gold.sft" in capsys.readouterr().out
    assert call(monkeypatch, comparison, "sft") == 2


def test_unknown_names_say_what_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "copy_of_revision", lambda *_: False)
    with pytest.raises(BadInput, match="Expected a folder with reports"):
        subjects.find("nothing", Path("data"), tmp_path / "copies")
    with pytest.raises(BadInput, match="has measured no model 'dpo'"):
        subjects.find("data:dpo", Path("data"), tmp_path / "copies")


@pytest.mark.slow
def test_mlflow_gets_versions_by_reference_and_follows_the_aliases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    promotion.after_evaluation(None)
    make_run(Path("data"), 0.0, "tie", seed=5)
    promotion.after_evaluation(None)
    make_report(Path("data"), 0.2)
    promotion.after_evaluation(None)
    Sender().send_all()
    client = MlflowClient()
    aliases = client.get_registered_model("athanor").aliases
    numbers = {
        alias: client.get_model_version("athanor", version).tags["athanor.version"]
        for alias, version in aliases.items()
    }
    assert numbers == {"champion": "3", "candidate": "3"}
    version = client.get_model_version_by_alias("athanor", "champion")
    assert version.tags["path"].endswith("data/promotion/versions/3/model")
    assert len(version.tags["sha256"]) == 64
    assert not list(spool.folder().glob("*/record.json"))
