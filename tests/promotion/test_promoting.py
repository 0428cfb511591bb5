"""From a run to the champion and back, on disk, without torch."""

import json
from pathlib import Path

import pytest

from tasks.errors import BadInput, BadModel, GateFailed
from tasks.promotion import Outcome, Params, log, promote, rollback, root_of, status, update
from tests.promotion.small import STAGES, make_model, make_report, make_run

ABOUT = {"commit": "c0ffee", "data": "d1.dir", "hardware": "2 cores"}


def run_update(data: Path, keep: int = 3) -> Outcome:
    return update(data, Params(keep=keep), STAGES, ABOUT)


def champion_weights(data: Path) -> str:
    return (data / "models" / "champion" / "model.safetensors").read_text()


def test_the_first_passing_model_is_champion_and_a_better_one_replaces_it(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    first = run_update(tmp_path)
    assert [move["event"] for move in first.moves] == ["register", "promote"]
    assert champion_weights(tmp_path) == "first"
    make_run(tmp_path, 0.1, "second", seed=1)
    second = run_update(tmp_path)
    assert second.promoted
    assert (second.state.champion, second.state.candidate) == (2, 2)
    assert champion_weights(tmp_path) == "second"
    assert second.decision is not None
    assert second.decision.verdict.metric == "gold.sft"
    last = log.read(root_of(tmp_path))[-1]
    assert (last["commit"], last["data"], last["verdict"]) == ("c0ffee", "d1.dir", "better")


def test_a_tie_and_a_worse_model_become_candidates_only(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    run_update(tmp_path)
    for gain, content in ((0.0, "tie"), (-0.1, "worse")):
        make_run(tmp_path, gain, content, seed=2)
        outcome = run_update(tmp_path)
        assert not outcome.promoted
        assert (tmp_path / "models/candidate/model.safetensors").read_text() == content
    assert champion_weights(tmp_path) == "first"


def test_the_same_run_again_changes_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    run_update(tmp_path)
    before = (root_of(tmp_path) / log.LOG).read_bytes()
    assert run_update(tmp_path).moves == []
    assert (root_of(tmp_path) / log.LOG).read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gates_failed": 1, "notes": ["GATE FAILED: max_kl: 3 is above 2"]}, "max_kl: 3 is above 2"),
        ({"digest": "f" * 64}, "measured another model"),
        ({"measured": {}}, "does not state which model"),
        ({"measured": {"models": {}, "contamination": "5 test documents were trained on"}}, "5 test documents"),
    ],
)
def test_what_has_no_passing_report_gets_no_alias(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    make_run(tmp_path, 0.5, "bad", **changes)
    outcome = run_update(tmp_path)
    assert outcome.decision is not None
    assert reason in outcome.decision.reason
    assert outcome.moves == ()
    assert not (tmp_path / "models/champion").exists()
    assert not (tmp_path / "models/candidate").exists()


def test_a_missing_report_prevents_promotion(tmp_path: Path) -> None:
    make_model(tmp_path, "weights")
    decision = run_update(tmp_path).decision
    assert decision is not None
    assert "there is no" in decision.reason


def test_rollback_restores_verified_bytes_and_the_model_is_not_promoted_again(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    run_update(tmp_path)
    make_run(tmp_path, 0.1, "second")
    run_update(tmp_path)
    outcome = rollback(tmp_path, Params(), "users complain")
    assert outcome.state.champion == 1
    assert champion_weights(tmp_path) == "first"
    assert log.read(root_of(tmp_path))[-1]["reason_given"] == "users complain"
    again = run_update(tmp_path)
    assert not again.promoted
    assert "rolled back" in again.notes[0]
    assert promote(tmp_path, 2, Params()).state.champion == 2
    rollback(tmp_path, Params())
    with pytest.raises(BadInput, match="no earlier champion"):
        rollback(tmp_path, Params())


def test_damaged_bytes_are_never_made_champion(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    run_update(tmp_path)
    make_run(tmp_path, 0.1, "second")
    run_update(tmp_path)
    file = root_of(tmp_path) / "versions/1/model/model.safetensors"
    file.unlink()
    file.write_text("First")
    with pytest.raises(BadModel, match=r"model\.safetensors is damaged"):
        rollback(tmp_path, Params())
    assert champion_weights(tmp_path) == "second"
    make_model(tmp_path, "third")
    make_report(tmp_path, 0.3)
    (tmp_path / "models/sft/model.safetensors").write_text("THIRD")
    with pytest.raises(BadModel, match="damaged"):
        run_update(tmp_path)


def test_a_person_may_promote_a_tie_by_force_and_the_log_says_so(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    run_update(tmp_path)
    make_run(tmp_path, 0.0, "tie", seed=3)
    run_update(tmp_path)
    with pytest.raises(GateFailed, match="--force"):
        promote(tmp_path, 2, Params())
    assert promote(tmp_path, 2, Params(), force=True).state.champion == 2
    assert log.read(root_of(tmp_path))[-1]["forced"] is True
    with pytest.raises(BadInput, match="there is no version 9"):
        promote(tmp_path, 9, Params())


def test_old_models_are_removed_and_their_reports_stay(tmp_path: Path) -> None:
    for index in range(4):
        make_run(tmp_path, 0.1 * index, f"model {index}")
        run_update(tmp_path, keep=1)
    versions = root_of(tmp_path) / "versions"
    assert [(versions / str(number) / "model").exists() for number in (1, 2, 3, 4)] == [False, False, True, True]
    assert (versions / "1/reports/evaluation.json").is_file()
    assert status(tmp_path).champion == 4


def test_a_folder_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    (tmp_path / "models/champion").mkdir()
    with pytest.raises(BadInput, match="Move it away"):
        run_update(tmp_path)
    assert not (root_of(tmp_path) / log.LOG).exists()


def test_the_card_states_facts_on_disk(tmp_path: Path) -> None:
    make_run(tmp_path, 0.0, "first")
    run_update(tmp_path)
    text = (tmp_path / "models/champion/README.md").read_text()
    for part in ("library_name: transformers", "c0ffee", "d1.dir", "gold.sft", "2 cores", "dvc repro sft", "Licenses"):
        assert part in text
    assert json.loads((tmp_path / "models/sft/manifest.json").read_text()).keys().isdisjoint({"README.md"})
    assert not (tmp_path / "models/sft/README.md").exists()
