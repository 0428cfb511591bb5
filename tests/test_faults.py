"""A quick selection of the injected faults of benchmarks/faults.py, without torch, servers and whole pipelines."""

import json
import os
import random
from pathlib import Path

from benchmarks import fault_injection as injection
from benchmarks import faults_in_tools as tools
from benchmarks import faults_in_votes as votes
from benchmarks.fault_injection import SURVIVED, Tally
from tasks.files import write_json


def test_a_killed_receipt_of_a_delivery_loses_and_doubles_nothing(tmp_path: Path) -> None:
    tally = Tally()
    tools.kill_deliveries(tally, tmp_path, 6)
    assert tally.body()["faults"] == tally.body()[SURVIVED] >= 4


def test_votes_are_there_once_after_kills_and_a_full_disk(tmp_path: Path) -> None:
    tally = Tally()
    votes.break_votes(tally, tmp_path, 2)
    assert tally.body()["faults"] == tally.body()[SURVIVED] == 2 * len(votes.KINDS)


def test_a_killed_write_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    """write_json makes two such calls: it opens the temporary file, and renames it."""
    path = tmp_path / "report.json"

    def work() -> None:
        write_json(path, {"number": 2})

    assert injection.count_writes(work) == 2
    for at_write in injection.spread(2, 5):
        write_json(path, {"number": 1})
        assert injection.run_forked(injection.killed_at(at_write, work)) < 0
        assert json.loads(path.read_text()) == {"number": 1}


def test_damages_change_the_bytes(tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "a.bin"
    body = os.urandom(2_000)
    for kind, size in (("flip", 2_000), ("empty", 0), ("zeros", 2_000)):
        path.write_bytes(body)
        injection.damage(path, kind, rng)
        assert path.read_bytes() != body
        assert path.stat().st_size == size


def test_positions_are_spread_from_the_first_to_the_last_write() -> None:
    assert injection.spread(10, 4) == [1, 4, 7, 10]
    assert injection.spread(2, 9) == [1, 2]
    assert injection.spread(0, 3) == []


def test_a_fault_that_does_damage_is_counted() -> None:
    tally = Tally()
    tally.add("curation", "kill", injection.LOST)
    tally.add("curation", "kill", SURVIVED)
    assert tally.body() == {"faults": 2, "survived": 1, "lost": 1, "doubled": 0, "wrong": 0, "dead_runs": 0}
