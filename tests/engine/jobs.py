"""Functions that the tests of the engine run in worker processes."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import BadInput


def square(part: Path, number: int) -> Mapping[str, Any]:
    (part / "square.txt").write_text(str(number**2), encoding="utf-8")
    return {"square": number**2}


def crash_if_odd(part: Path, number: int) -> Mapping[str, Any]:
    (part / "half.txt").write_text("written before the crash", encoding="utf-8")
    if number % 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(part, number)


def crash_once(part: Path, flag: str) -> Mapping[str, Any]:
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(part, 3)


def refuse(part: Path, number: int) -> Mapping[str, Any]:
    if number == 1:
        raise BadInput("the file of key b is damaged")
    return square(part, number)


def hang(part: Path, _: Any) -> Mapping[str, Any]:
    time.sleep(60)
    return square(part, 0)


def hang_or_refuse(part: Path, number: int) -> Mapping[str, Any]:
    if number:
        while not list(part.parent.glob("part-hang.*.tmp")):
            time.sleep(0.02)
        return refuse(part, number)
    return hang(part, number)


def pid(_part: Path, _: Any) -> Mapping[str, Any]:
    return {"pid": os.getpid()}
