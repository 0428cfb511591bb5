"""Votes on disk: exactly one record per action, whatever is sent twice or killed; which prompt is ranked next."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import BadParams
from tasks.serving import FeedbackLog, RankingQueue
from tests.sources import ROOT


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_an_id_gives_one_record(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path)
    assert log.append({"id": "a", "choice": 1})
    assert not log.append({"id": "a", "choice": 2})
    assert not FeedbackLog(tmp_path).append({"id": "a"}), "also after a restart"
    (record,) = lines(tmp_path)
    assert record["choice"] == 1
    assert record["schema_version"] == 1


def test_many_threads(tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path)
    threads = [threading.Thread(target=lambda: [log.append({"id": str(n)}) for n in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(record["id"]) for record in lines(tmp_path)) == list(range(50))


def test_a_line_that_was_cut_off_stays_and_harms_no_other(tmp_path: Path) -> None:
    FeedbackLog(tmp_path).append({"id": "a"})
    (file,) = tmp_path.iterdir()
    with open(file, "a") as stream:
        stream.write('{"id": "b", "cho')
    log = FeedbackLog(tmp_path)
    assert log.append({"id": "b"}), "it was never acknowledged"
    assert [record["id"] for record in log.records()] == ["a", "b"]
    assert file.read_text().count("\n") == 3


def test_a_full_disk_leaves_no_part_of_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = FeedbackLog(tmp_path)
    log.append({"id": "a"})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("tasks.serving.feedback.os.write", lambda file, line: write(file, line[:5]))
        with pytest.raises(OSError, match="only a part"):
            log.append({"id": "b"})
    assert log.append({"id": "b"})
    assert [record["id"] for record in lines(tmp_path)] == ["a", "b"]


WRITER = """
import sys
from pathlib import Path
from tasks.serving.feedback import FeedbackLog
log = FeedbackLog(Path(sys.argv[1]))
for number in range(10_000):
    log.append({"id": str(number), "text": "x" * 500})
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_kill_loses_and_doubles_no_acknowledged_vote(tmp_path: Path) -> None:
    """The writer is killed and begins again with the same ids; what it has acknowledged is there once."""
    acknowledged: set[int] = set()
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(40):
            acknowledged.add(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        acknowledged |= {int(line) for line in process.stdout.read().splitlines() if line.isdigit()}
        process.wait()
        process.stdout.close()
    ids = [int(record["id"]) for record in FeedbackLog(tmp_path).records()]
    assert len(ids) == len(set(ids))
    assert acknowledged <= set(ids)


def ranking(annotator: str, item: dict[str, Any], ranks: list[int], number: int) -> dict[str, Any]:
    about = {"item": item["item"], "prompt": item["prompt"], "answers": item["answers"]}
    return {"id": f"{annotator}{number}", "action": "ranking", "annotator": annotator, "ranks": ranks, **about}


def answered(queue: RankingQueue, annotator: str) -> Any:
    item = queue.next(annotator)
    return queue.show(annotator, item, [{"text": "x"}, {"text": "y"}]) if isinstance(item, str) else item


def test_every_prompt_is_ranked_once_and_some_twice() -> None:
    queue = RankingQueue(["p1", "p2", "p3"], overlap=1.0)
    first = answered(queue, "anna")
    assert queue.next("anna") == first, "the same until it is ranked"
    other = answered(queue, "bert")
    assert other["item"] != first["item"], "nobody else gets an item that is open"
    queue.add(ranking("anna", first, [0, 1], 1))
    queue.add(ranking("bert", other, [0, 1], 1))
    again = queue.next("bert")
    assert isinstance(again, dict)
    assert again["item"] == first["item"]
    assert again["answers"] == first["answers"]
    queue.add(ranking("bert", again, [0, 1], 2))
    assert queue.progress("bert") == {"ranked": 3, "mine": 2, "prompts": 3, "alpha": 1.0}


def test_a_ranking_that_was_taken_back_is_asked_for_again() -> None:
    queue = RankingQueue(["p1"])
    item = answered(queue, "anna")
    queue.add(ranking("anna", item, [0, 1], 1))
    assert queue.next("anna") is None
    queue.add({"id": "u", "action": "undo", "annotator": "anna", "target": "anna1"})
    again = queue.next("anna")
    assert isinstance(again, dict)
    assert again["item"] == item["item"]
    assert queue.progress("anna")["ranked"] == 0


def test_the_queue_continues_from_the_records() -> None:
    queue = RankingQueue(["p1", "p2"])
    item = answered(queue, "anna")
    record = ranking("anna", item, [1, 0], 1)
    later = RankingQueue(["p1", "p2"])
    later.add(record)
    assert answered(later, "anna")["prompt"] == [{"role": "user", "content": "p2"}]
    assert later.progress("anna")["mine"] == 1


def test_a_page_that_is_loaded_again_meanwhile_loses_no_prompt() -> None:
    """The same annotator asks twice before the first answers are written."""
    queue = RankingQueue(["p", "q"])
    first, second = queue.next("annotator"), queue.next("annotator")
    assert (first, second) == ("p", "q")
    item = queue.show("annotator", "q", [{"text": "1"}, {"text": "2"}])
    assert queue.show("annotator", "p", [{"text": "3"}, {"text": "4"}]) == item
    assert queue.next("other") == "p"


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    """A file has the name of the folder's parent."""
    (tmp_path / "raw").write_text("")
    with pytest.raises(BadParams, match="votes cannot be written to"):
        FeedbackLog(tmp_path / "raw/feedback")
