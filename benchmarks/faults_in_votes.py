"""Faults while votes are written: the process is killed at every point of a write, or its disk is full."""

import errno
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path

from benchmarks import fault_injection as injection
from benchmarks.fault_injection import DOUBLED, LOST, SURVIVED, Tally
from benchmarks.faults_in_server import kill_amid_votes, write_model
from tasks.feedback import FeedbackLog

NUM_VOTES = 6
NUM_STREAMS, NUM_SERVER_VOTES = 20, 60  # of a real server
KINDS = ("before the write", "in the write", "before the sync", "after the sync", "full disk")


def break_votes(tally: Tally, scratch: Path, number: int) -> None:
    """Kill the process that writes votes at every point of a write, or fill its disk; the page sends the votes again.

    Survived: each vote is there once at the end, and those that were acknowledged were there before.
    """
    for kind in KINDS:
        for at_vote in injection.spread(NUM_VOTES, number):
            folder = scratch / f"votes-{KINDS.index(kind)}-{at_vote}"
            acknowledged = folder.with_suffix(".acknowledged")
            acknowledged.touch()
            injection.run_forked(partial(write_votes, folder, acknowledged, kind, at_vote))
            before = set(acknowledged.read_text().split())
            lost = before - set(votes(folder))
            code = injection.run_forked(partial(write_votes, folder, acknowledged, "", 0))
            tally.add("serving", f"vote {at_vote}, {kind}", LOST if code or lost else outcome_of(votes(folder)))


def votes(folder: Path) -> Counter[str]:
    """Return how often each vote is on disk."""
    return Counter(str(record["id"]) for record in FeedbackLog(folder).records())


def outcome_of(present: Counter[str]) -> str:
    """Compare the votes on disk with those that were sent."""
    expected = Counter(f"vote-{number:04}" for number in range(NUM_VOTES))
    return LOST if expected - present else DOUBLED if present - expected else SURVIVED


def write_votes(folder: Path, acknowledged: Path, kind: str, at_vote: int) -> None:
    """Write all votes, as the server does, with a fault at the n-th; write those that are on disk to `acknowledged`."""
    log, write, sync = FeedbackLog(folder), os.write, os.fsync
    current = [0]

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def faulty_write(file: int, line: bytes) -> int:
        if current[0] != at_vote or not line.startswith(b"{"):
            return write(file, line)
        if kind == "full disk":
            write(file, line[: len(line) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        if kind == "in the write":
            write(file, line[: len(line) // 2])
        if kind in ("before the write", "in the write"):
            kill()
        return write(file, line)

    def faulty_sync(file: int) -> None:
        if current[0] == at_vote and kind == "before the sync":
            kill()
        sync(file)
        if current[0] == at_vote and kind == "after the sync":
            kill()

    os.write, os.fsync = faulty_write, faulty_sync  # type: ignore[assignment]
    with open(acknowledged, "a", encoding="utf-8") as file:
        for number in range(NUM_VOTES):
            current[0] = number + 1
            try:
                log.append({"id": f"vote-{number:04}", "action": "vote", "text": "x" * 200})
            except OSError:
                continue  # the page shows an error and keeps the vote
            file.write(f"vote-{number:04}\n")
            file.flush()


def kill_servers(tally: Tally, scratch: Path, number: int) -> None:
    """Kill a real server amid streams and votes, start it again, and send all votes again, as the page does."""
    for i in range(number):
        data = scratch / f"served-{i}"
        counts = kill_amid_votes(data, write_model(data / "models/sft"), NUM_STREAMS, NUM_SERVER_VOTES)
        outcome = LOST if counts["lost"] else DOUBLED if counts["doubled"] else SURVIVED
        tally.add("serving", f"kill {i + 1} of the server", outcome)
