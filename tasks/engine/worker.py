"""A worker process of `LocalEngine`: it reads tasks from stdin and writes their outcomes to stdout, as JSON lines.

It is a process of its own, so that a task that crashes or hangs affects no other one. It ends when its driver has
ended.
"""

import base64
import json
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tasks.engine.engine import Part, Task, execute

POLL_SECONDS = 0.5  # how often a worker looks whether its driver still exists


def main() -> None:
    """Run tasks until stdin ends."""
    driver = os.getppid()
    threading.Thread(target=_end_with, args=(driver,), daemon=True).start()
    # The functions of tasks may print: what they print goes to stderr, and does not mix with the outcomes.
    outcomes = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        outcomes.write(json.dumps(outcome_of(Task(**json.loads(line)))) + "\n")
        outcomes.flush()


def outcome_of(task: Task) -> dict[str, Any]:
    """Run a task; return its part or its error as a value of JSON, which `decode_outcome` reads."""
    try:
        return {"part": asdict(execute(task))}
    except Exception as error:
        error.add_note(f"in the task {task.key!r} of {task.folder}:\n{traceback.format_exc()}")
        return {"error": _encode_error(error)}


def decode_outcome(outcome: Mapping[str, Any]) -> Part:
    """Return the part of an outcome, or raise its error."""
    if "error" in outcome:
        error: Exception = pickle.loads(base64.b64decode(outcome["error"]))
        raise error
    return Part(**outcome["part"])


def _encode_error(error: Exception) -> str:
    """Return an exception as text; one that cannot be pickled becomes a RuntimeError with its description."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        data = pickle.dumps(RuntimeError("".join(traceback.format_exception(error))))
    return base64.b64encode(data).decode()


def _end_with(driver: int) -> None:
    while os.getppid() == driver:
        time.sleep(POLL_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
