"""A vote belongs to exactly one round, whatever is killed; the champion is replaced once."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import BadInput
from tasks.feedback import FOLDER, FeedbackLog, erase
from tasks.rounds import state


def vote(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"vote{number}", "action": "comparison", "annotator": "anna", **more}


def model(folder: Path, content: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"weights": content}))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    log = FeedbackLog(tmp_path / FOLDER)
    for number in range(3):
        log.append(vote(number))
    log.append({"id": "skip1", "action": "skip", "annotator": "anna"})
    model(tmp_path / "models/sft", "sft")
    return tmp_path


def begin(data: Path) -> state.Round:
    records = state.new_records(data / FOLDER, state.all_rounds(data))
    return state.begin(data, records, data / "models/sft", {"method": "dpo"})


def test_a_vote_is_used_by_one_round(data: Path) -> None:
    first = begin(data)
    assert (first.number, first.name, first.state["num_votes"]) == (1, "round-001", 3)
    assert state.num_votes(state.new_records(data / FOLDER, state.all_rounds(data))) == 0
    FeedbackLog(data / FOLDER).append(vote(9))
    second = begin(data)
    assert state.used_ids([second]) == {"vote9"}
    assert state.used_ids([first]) == {"vote0", "vote1", "vote2", "skip1"}


def test_a_deleted_vote_stays_used(data: Path) -> None:
    first = begin(data)
    assert len(erase(first.folder / state.VOTES, lambda record: record.get("id") == "vote1")) == 1
    assert "vote1" in state.used_ids([first])
    assert not state.new_records(data / FOLDER, [first])


def test_a_round_that_was_killed_before_its_rename_has_used_nothing(data: Path) -> None:
    """The folder `new` is what a kill leaves; the next attempt makes it again."""
    (data / "rounds/new/votes").mkdir(parents=True)
    (data / "rounds/new/votes/votes.jsonl").write_text(json.dumps(vote(0)))
    assert state.all_rounds(data) == []
    assert begin(data).state["num_votes"] == 3
    assert not (data / "rounds/new").exists()


def test_steps_are_remembered(data: Path) -> None:
    this = begin(data)
    this.finish("reward", loss=0.5)
    again = state.Round(this.folder)
    assert again.has_done("reward")
    assert not again.has_done("policy")
    assert again.state["loss"] == 0.5


def test_the_start_and_the_first_model_are_copies(data: Path) -> None:
    """The champion may be replaced during a round, and the first model stays that of the first round."""
    first = begin(data)
    (data / "models/sft/manifest.json").write_text(json.dumps({"weights": "other"}))
    second = begin(data)
    contents = [
        json.loads((folder / "manifest.json").read_text())["weights"]
        for folder in (first.folder / "models/start", second.folder / "models/start", data / "rounds/first")
    ]
    assert contents == ["sft", "other", "sft"]


def test_two_rounds_at_once_are_refused(data: Path) -> None:
    with state.exclusive(data), pytest.raises(BadInput, match="another process"), state.exclusive(data):
        pass
    with state.exclusive(data):
        pass


def test_without_a_model_there_is_no_round(data: Path) -> None:
    with pytest.raises(BadInput, match="no model"):
        state.begin(data, [], data / "models/none", {})
    assert state.all_rounds(data) == []


def test_installing_the_champion_twice_changes_nothing(data: Path) -> None:
    new, champion = model(data / "new", "better"), data / "models/champion"
    state.install(data / "models/sft", champion)
    state.install(new, champion)
    inode = (champion / "manifest.json").stat().st_ino
    state.install(new, champion)
    assert (champion / "manifest.json").stat().st_ino == inode
    assert json.loads((champion / "manifest.json").read_text()) == {"weights": "better"}
    assert sorted(path.name for path in (data / "models").iterdir()) == ["champion", "sft"]
