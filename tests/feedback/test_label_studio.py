"""Votes leave for Label Studio and come back as the same votes."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows import feedback as commands
from tasks.errors import BadInput, BadParams
from tasks.feedback import FOLDER, FeedbackLog, from_label_studio, to_label_studio
from tasks.feedback.label_studio import WAS_SKIPPED

PROMPT = [{"role": "user", "content": "q"}]
ANSWERS = [{"text": "x", "model": "m1", "version": "1"}, {"text": "y", "model": "m2", "version": "2"}]


def comparison(number: int, choice: Any, order: tuple[int, int] = (0, 1), **more: Any) -> dict[str, Any]:
    return {"id": f"id{number}", "action": "comparison", "annotator": "anna1234", "conversation": "c1",
            "prompt": PROMPT, "answers": ANSWERS, "order": list(order), "choice": choice, **more}  # fmt: skip


def chosen(record: dict[str, Any]) -> tuple[str, str]:
    """The text and the model of the better answer."""
    answer = record["answers"][record["choice"]]
    return answer["text"], answer["model"]


def test_a_vote_survives_the_way_to_label_studio_and_back() -> None:
    """Answer 1 is shown on the left and wins; it stays the winner, with its model, its place and the reason."""
    tasks, others = to_label_studio([comparison(1, 1, (1, 0), reason="shorter"), comparison(2, "tie")])
    assert not others
    (result, _) = tasks[0]["annotations"][0]["result"]
    assert result == {
        "from_name": "vote", "to_name": "answer1,answer2", "type": "pairwise", "value": {"selected": "left"},
    }  # fmt: skip
    records, skipped = from_label_studio(json.loads(json.dumps(tasks)))
    assert not skipped
    assert chosen(records[0]) == ("y", "m2")
    assert (records[0]["order"][0], records[0]["choice"], records[0]["reason"]) == (0, 0, "shorter")
    assert (records[0]["annotator"], records[0]["conversation"]) == ("anna1234", "c1")
    assert records[1]["choice"] == "tie"


def test_a_ranking_becomes_its_pairs_and_a_thumb_is_counted() -> None:
    answers = [*ANSWERS, {"text": "z", "model": "m3", "version": "3"}]
    ranking = {"id": "r", "action": "ranking", "annotator": "a", "prompt": PROMPT, "answers": answers,
               "ranks": [0, 1, 1], "order": [2, 1, 0]}  # fmt: skip
    tasks, others = to_label_studio([ranking, {"id": "t", "action": "thumb"}])
    selected = [[one["value"]["selected"] for one in task["annotations"][0]["result"]] for task in tasks]
    assert [(task["data"]["answer1"], task["data"]["answer2"]) for task in tasks] == [
        ("z", "y"),
        ("z", "x"),
        ("y", "x"),
    ]
    assert selected == [[], ["right"], ["right"]]
    assert others == {"thumb": 1}


def test_an_export_with_other_names_of_fields() -> None:
    """The names of the two texts are those of the result; a canceled annotation and a task without one are counted."""
    result = {"type": "pairwise", "from_name": "pw", "to_name": "text1,text2", "value": {"selected": "right"}}
    data = {"prompt": "q", "text1": "x", "text2": "y"}
    annotations = [{"completed_by": 7, "result": [result]}, {"completed_by": 8, WAS_SKIPPED: True, "result": []}]
    records, skipped = from_label_studio([{"data": data, "annotations": annotations}, {"data": data}])
    assert [(one["annotator"], one["answers"][one["choice"]]["text"]) for one in records] == [("label-studio-7", "y")]
    assert sum(skipped.values()) == 2


@pytest.mark.parametrize("task", [{"data": {}}, {"data": {"prompt": "q"}, "annotations": [{"result": [{}]}]}, 5])
def test_another_format_is_an_error_with_the_number_of_the_task(task: Any) -> None:
    if task == {"data": {}}:
        assert from_label_studio([task])[1] == {"a task without an annotation": 1}
        return
    with pytest.raises(BadInput, match="Task 1 is no pairwise task"):
        from_label_studio([task])


def test_an_imported_file_gives_its_votes_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = FeedbackLog(tmp_path / FOLDER)
    log.append(comparison(1, 0))
    file = tmp_path / "tasks.json"
    commands.export(commands.parse(["export", str(file), "--data", str(tmp_path), "--json"]))
    assert "<Pairwise" in file.with_suffix(".xml").read_text()
    other = tmp_path / "other"
    for _ in range(2):
        commands.import_file(commands.parse(["import", str(file), "--data", str(other), "--json"]))
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("imported") for line in printed] == [None, 1, 0]
    assert len(FeedbackLog(other / FOLDER)) == 1


def test_deletion_removes_the_text_from_the_log_and_from_rounds(tmp_path: Path) -> None:
    folders = [tmp_path / FOLDER, tmp_path / "rounds/001/votes"]
    for folder in folders:
        log = FeedbackLog(folder)
        log.append(comparison(1, 0, annotator="anna1234"))
        log.append(comparison(2, 0, annotator="bertbert", conversation="c2"))
    commands.delete(commands.parse(["delete", "--annotator", "anna1234", "--data", str(tmp_path)]))
    for folder in folders:
        (file,) = folder.glob("*.jsonl")
        assert "anna1234" not in file.read_text()
        assert not FeedbackLog(folder).append(comparison(1, 0)), (
            "a page that sends the action again must not restore it"
        )
    commands.delete(commands.parse(["delete", "--conversation", "c2", "--data", str(tmp_path)]))
    with pytest.raises(BadInput, match="no record"):
        commands.delete(commands.parse(["delete", "--annotator", "anna1234", "--data", str(tmp_path)]))
    with pytest.raises(BadParams, match="one of both"):
        commands.delete(commands.parse(["delete"]))


def test_a_running_server_appends_after_a_deletion(tmp_path: Path) -> None:
    """The log of the server was opened before; its next record is in the new file."""
    log = FeedbackLog(tmp_path / FOLDER)
    log.append(comparison(1, 0))
    commands.delete(commands.parse(["delete", "--annotator", "anna1234", "--data", str(tmp_path)]))
    log.append(comparison(2, 0))
    assert [record["id"] for record in FeedbackLog(tmp_path / FOLDER).records()][-1] == "id2"


def test_the_report_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FeedbackLog(tmp_path / FOLDER).append(comparison(1, 0))
    commands.report(commands.parse(["report", "--data", str(tmp_path), "--json"]))
    tables = json.loads(capsys.readouterr().out)["tables"]
    assert tables["feedback"][0]["votes"] == 1
    assert tables["feedback_strengths"][0]["model"] == "m1"
