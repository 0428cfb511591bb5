"""A process that ends when the process that started it does, also after `kill -9`.

Otherwise it would go on writing, to outputs or to a database, while the next run does the same.
"""

import os
import signal
import threading
import time

VARIABLE = "ATHANOR_PARENT"  # the id of the process that this one ends with
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0


def end_with_parent() -> None:
    """Watch the parent in a thread; end this process by SIGTERM, then by SIGKILL, when the parent has ended.

    Linux has a signal for this (PR_SET_PDEATHSIG), but it arrives when the thread ends that started the process.
    """
    expected = os.environ.pop(VARIABLE, "")  # not for the children of this process
    if expected.isdigit():
        threading.Thread(target=_watch, args=(int(expected),), name="parent", daemon=True).start()


def _watch(expected: int) -> None:
    while os.getppid() == expected:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
