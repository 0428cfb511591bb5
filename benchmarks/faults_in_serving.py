"""Faults of the server: votes while it is killed or its disk is full, and a real server killed between votes."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import httpx

from benchmarks import fault_injection as injection
from benchmarks.fault_injection import DOUBLED, LOST, SURVIVED, Tally
from tasks.feedback import FeedbackLog

NUM_VOTES = 6
VOTE = {
    "action": "comparison",
    "prompt": [{"role": "user", "content": "say one"}],
    "answers": [{"text": "x", "model": "sft", "version": "1"}, {"text": "y", "model": "ppo", "version": "2"}],
    "order": [1, 0],
    "choice": 1,
    "reason": "",
}
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
            tally.add("serving", f"vote {at_vote}, {kind}", LOST if code or lost else outcome(votes(folder)))


def votes(folder: Path) -> Counter[str]:
    """Return how often each vote is on disk."""
    return Counter(str(record["id"]) for record in FeedbackLog(folder).records())


def outcome(present: Counter[str]) -> str:
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
    """Kill a real server after its n-th vote and start it again; the page sends all votes again."""
    from tests.evaluation import small

    (scratch / "served").mkdir()
    data = small.write_project(scratch / "served")
    for at_vote in range(1, number + 1):
        folder = data / "raw/feedback"
        for file in folder.glob("*.jsonl"):
            file.unlink()
        process, address = started(data)
        for vote in range(at_vote):
            send(address, vote)
        process.kill()
        process.wait()
        lost = {f"vote-{vote:04}" for vote in range(at_vote)} - set(votes(folder))
        process, address = started(data)
        for vote in range(NUM_VOTES):
            send(address, vote)
        process.terminate()
        code = process.wait(60)
        tally.add("serving", f"kill after vote {at_vote}", LOST if code or lost else outcome(votes(folder)))


def started(data: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a server of the models of `data`; return it and its address when it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = ["flows.serving", "--data", str(data), "--model", str(data / "models/sft"), "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return process, address
        except httpx.HTTPError:
            time.sleep(0.1)
    process.kill()
    raise RuntimeError("the server does not answer")


def send(address: str, number: int) -> None:
    """Send a vote as the page does, and wait until it is acknowledged."""
    body = {**VOTE, "id": f"vote-{number:04}"}
    response = httpx.post(f"{address}/page/feedback", json=body, cookies={"annotator": "a" * 32}, timeout=60)
    assert json.loads(response.text).get("id") == body["id"], response.text
