"""Ablations: what a command line changes, and a whole one with a tiny model that is killed and repeated."""

import json
import signal
import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from flows import ablation as command
from flows.proxies import arms, changes, runs
from tasks.errors import BadInput, BadParams
from tests.flows.project import Project
from tests.flows.test_whole_pipeline import tiny_project as tiny_project

BODY: dict[str, Any] = {
    "ingestion": {"sources": {"numbers": {"num_conversations": 10}, "environment": {}}},
    "curation": {"filters": ["gopher_quality", "spam"], "pii": None},
    "pretrain": {"steps": 40, "from_scratch": {"learning_rate": 0.01}},
    "sft": {},
}


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(BODY), encoding="utf-8")


def arms_of(*keys: str) -> dict[str, Any]:
    return command.arms_of(keys, changes.read_sections())


def test_a_component_is_taken_out_or_added() -> None:
    """An entry of a list, settings that may be null, a switch, an entry of a mapping; and what is absent is added."""
    arms = arms_of(
        "curation.filters.spam", "curation.minhash", "curation.exact", "ingestion.sources.environment",
        "curation.filters.length", "curation.pii",
    )  # fmt: skip
    assert arms["without curation.filters.spam"]["curation"]["filters"] == ["gopher_quality"]
    assert arms["without curation.minhash"]["curation"]["minhash"] is None
    assert arms["without curation.exact"]["curation"]["exact"] is False
    assert list(arms["without ingestion.sources.environment"]["ingestion"]["sources"]) == ["numbers"]
    assert arms["with curation.filters.length"]["curation"]["filters"] == ["gopher_quality", "spam", "length"]
    assert arms["with curation.pii"]["curation"]["pii"] == {}
    assert changes.read_sections() == BODY


def test_values_are_arms_of_their_own() -> None:
    """A value of params.yaml itself (0.001 is the default) is the baseline."""
    arms = arms_of("sft.learning_rate=0.001,0.003,0.01", "pretrain.betas=[0.9, 0.99]", "pretrain.learning_rate=0.02")
    names = ["sft.learning_rate=0.003", "sft.learning_rate=0.01", "pretrain.betas=[0.9, 0.99]"]
    assert list(arms) == [*names, "pretrain.learning_rate=0.02"]
    full = changes.settings("pretrain", arms["pretrain.learning_rate=0.02"], "")
    assert full.learning_rate == 0.02  # a change has priority over from_scratch


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("curation.minhas", "unknown key; did you mean 'minhash'"),
        ("curation.filters.lenght", "no filter 'lenght'"),
        ("ingestion.sources.number", "no such entry; did you mean 'numbers'"),
        ("evaluation.gates", "expected a key of a stage that changes what is trained"),
        ("minhash", "expected a key of a stage"),
        ("pretrain.steps", "is no component that can be taken out"),
        ("pretrain.steps=", "expected values after `=`"),
        ("pretrain.steps=-1", "pretrain.steps=-1"),
        ("pretrain.steps=[", "not valid YAML"),
        ("pretrain.steps=40", "has these values already"),
        ("pretrain.model.wdth=3", "unknown key"),
        ("pretrain.nothing.here", "there is no 'nothing'"),
        ("pretrain.seed.here", "has no entries"),
    ],
)
def test_mistakes_are_explained(key: str, message: str) -> None:
    with pytest.raises(BadParams, match=message.replace("[", r"\[").replace("?", r"\?")):
        arms_of(key)


def test_test_sets_are_read_before_anything_is_trained(tmp_path: Path) -> None:
    quiz = {"type": "cloze", "paths": "no.jsonl", "fields": {"continuation": "text"}}
    own = {"benchmarks": {"quiz": quiz}, "reward_model": "sft", "metrics": {"perplexity": {}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(BODY | {"evaluation": own}), encoding="utf-8")
    with pytest.raises(BadInput, match=r"evaluation.benchmarks.quiz: no.jsonl does not exist"):
        command._check(["curation.filters.spam"])


def test_scores_are_measured_again_when_a_file_of_a_test_set_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiz, shots = tmp_path / "quiz.jsonl", tmp_path / "shots.jsonl"
    benchmark = {"type": "cloze", "paths": str(quiz), "fields": {"context": "a", "continuation": "b"},
                 "few_shot": {"num": 1, "rows": {"paths": str(shots)}}}  # fmt: skip
    settings: Any = SimpleNamespace(
        baseline={"evaluation": {"benchmarks": {"quiz": benchmark}}}, metrics={"perplexity": {}}, to="sft",
        code={"evaluation": "code"},
    )  # fmt: skip
    places = list[Path]()

    def once(place: Path, work: Any) -> dict[str, float]:
        places.append(place)
        return {"seconds": 0}

    monkeypatch.setattr("flows.proxies.runs.link", lambda source, target: None)
    monkeypatch.setattr("flows.proxies.runs.once", once)
    monkeypatch.setattr("tasks.comparison.read", lambda name, place: None)
    for quiz_text, shots_text in (("1", "1"), ("1", "1"), ("2", "1"), ("2", "2")):
        quiz.write_text(quiz_text, encoding="utf-8")
        shots.write_text(shots_text, encoding="utf-8")
        arms.evaluated(tmp_path / "model", settings)
    assert places[0] == places[1]
    assert len(set(places)) == 3


def test_the_line_of_a_run_is_short() -> None:
    means = {"accuracy.a": 0.5, "bits_per_byte": 1.25, "accuracy.b": 0.75}
    assert command._brief(means) == "bits_per_byte 1.2500, 2 other scores"
    assert command._brief({"accuracy.a": 0.5}) == "accuracy.a 0.5000"


def test_work_is_done_once_and_by_one_process(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"weights": 5}

    with runs.exclusive(tmp_path / "folder", "an ablation"):
        assert [runs.once(tmp_path / "folder", work)["weights"] for _ in range(2)] == [5, 5]
        with pytest.raises(BadInput, match="another process runs it"), runs.exclusive(tmp_path / "folder", "it"):
            pass
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_ablation_continues_after_a_kill(tiny_project: Project) -> None:
    """Three arms: one without documents fails and stops nothing, one with more of them keeps the test set, one that
    changes nothing is equivalent.
    """
    keys = ["ingestion.sources.environment", "curation.filters.gopher_quality", "pretrain.log_every=3"]
    arguments = ["flows.ablation", *keys, "--full-size", "--seeds", "2", "--json"]
    work = tiny_project.root / ".run/ablation"
    with tiny_project.start(*arguments) as process:
        while not (done := list(work.glob("pretrain-*/result.json"))):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    times = {path: path.stat().st_mtime_ns for path in done}
    result = json.loads(tiny_project.run(*arguments).splitlines()[-1])
    assert {path: path.stat().st_mtime_ns for path in done} == times
    empty, other, same = result["arms"]
    assert "the run failed" in empty["left_out"]["bits_per_byte"]
    assert other["train_documents"] > result["baseline"]["train_documents"] == same["train_documents"]
    effects = [arm["effects"]["bits_per_byte"] for arm in (other, same)]
    assert effects[0]["items"] == effects[1]["items"] == result["test"]["documents"] > 5
    assert effects[0]["difference"] != 0
    assert (effects[1]["outcome"], effects[1]["difference"]) == ("equivalent", 0)
    assert "multiple_choice.numbers" in result["metrics"]
    assert "# Ablation" in (tiny_project.root / "data/reports/ablation/ablation.md").read_text(encoding="utf-8")
    with sqlite3.connect(tiny_project.root / "mlflow.db") as database:
        query = "select count(*) from tags where key = 'athanor.stage' and value = 'arm'"
        assert database.execute(query).fetchone()[0] >= 6
