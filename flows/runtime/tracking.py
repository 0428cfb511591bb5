"""Send the records that wait in the spool to MLflow (see flows/runtime/sender.py) from a process of its own.

It sends while and after the stages run, so that a slow, hung or stopped server never delays the work. The next run, or
`python -m flows.runtime.tracking`, sends what could not be sent.
"""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from flows.runtime import arguments, spool
from flows.runtime.sender import MAX_REFUSALS, PROGRESS, Sender, make_database, refused_folder, uri
from tasks.addresses import redact

__all__ = ["Sender", "following", "make_database", "uri"]

# How long the work, once it is done, waits for a sender process that makes no progress.
PATIENCE_SECONDS = 30.0
INTERRUPTED_PATIENCE_SECONDS = 5.0  # less than the grace of an interrupted command, which also updates Prefect
PROGRESS_CPU_SECONDS = 0.5  # of computation that count as progress; waiting for a server takes less
POLL_SECONDS = 3.0  # between two looks into the spool
RETRY_SECONDS = 15.0  # after an error of the server
LOG = "tracking.log"
REFUSED = 3  # the exit code if MLflow has refused records


@contextmanager
def following(patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Send records to MLflow from another process while the block runs.

    After the block, wait for the rest until the sender makes no progress for `patience` seconds.
    """
    command = [sys.executable, "-m", "flows.runtime.tracking", "--follow"]
    # MLflow's client retries a call for four minutes by default. Ours gives up sooner, because the spool retries.
    variables = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20", **os.environ}
    spool.folder().mkdir(parents=True, exist_ok=True)
    with open(spool.folder() / LOG, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=variables,
            start_new_session=True,  # Ctrl-C is meant for the pipeline, which then closes the sender's input
        )  # fmt: skip
    try:
        yield
    except BaseException as error:
        _await_end(process, patience if isinstance(error, Exception) else INTERRUPTED_PATIENCE_SECONDS)
        raise
    _await_end(process, patience)


def send_in_background() -> None:
    """Start a process that sends what waits in the spool and then ends. Nobody waits for it; it writes to the log."""
    with open(spool.folder() / LOG, "a", encoding="utf-8") as log:
        subprocess.Popen(
            [sys.executable, "-m", "flows.runtime.tracking"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _await_end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    """Wait for the sender to end, and kill it when it makes no progress for `patience` seconds.

    On a busy machine it may need longer only to import MLflow: as long as it computes, it makes progress.
    """
    assert process.stdin is not None
    process.stdin.close()  # tells the sender to send the rest and end
    last, cpu = time.time(), _cpu_seconds(process.pid)
    while process.poll() is None and time.time() - max(last, _time_of_progress()) < patience:
        time.sleep(0.05)
        if (now := _cpu_seconds(process.pid)) - cpu > PROGRESS_CPU_SECONDS:
            last, cpu = time.time(), now
    is_late = process.poll() is None
    process.kill()
    if process.wait():
        lines = (spool.folder() / LOG).read_text(encoding="utf-8").splitlines()
        reason = "no answer" if is_late else lines[-1] if lines else f"exit code {process.returncode}"
        if process.returncode == REFUSED:
            print(
                f"warning: MLflow at {redact(uri())} refused records ({reason}). They are in {refused_folder()}, each "
                "with its reason, and are not sent again; all others were sent.",
                file=sys.stderr,
            )
            return
        print(
            f"warning: not all records could be sent to MLflow at {redact(uri())} ({redact(reason)}). Nothing "
            f"is lost: they wait in {spool.folder()}, and the next run or `python -m flows.runtime.tracking` sends "
            "them.",
            file=sys.stderr,
        )


def _cpu_seconds(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _time_of_progress() -> float:
    with contextlib.suppress(OSError):
        return (spool.folder() / PROGRESS).stat().st_mtime
    return 0.0


def _await_end_of_input(ending: threading.Event) -> None:
    sys.stdin.read()
    ending.set()


def main() -> int:
    """Run the command and return its exit code: 1 if records could not be sent, 3 if some were refused."""
    parser = arguments.parser("flows.runtime.tracking", __doc__)
    parser.add_argument("--follow", action="store_true", help="continue until standard input closes")
    ending = threading.Event()
    if parser.parse_args().follow:
        os.nice(10)
        threading.Thread(target=_await_end_of_input, args=(ending,), daemon=True).start()
    else:
        ending.set()
    spool.folder().mkdir(parents=True, exist_ok=True)
    sender: Sender | None = None
    while True:
        is_last = ending.is_set()  # read before sending, so that what was written until then is sent
        try:
            sender = sender or Sender()
            for _ in range(MAX_REFUSALS if is_last else 1):
                sender.send_all()
                if not sender.has_refused_records:
                    break
            seconds = POLL_SECONDS
        except Exception as error:  # any error of a server, a network or a database
            if is_last:
                print(redact(f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"), file=sys.stderr)
                return 1
            seconds = RETRY_SECONDS
        if is_last:
            return _report_refusals(sender)
        ending.wait(seconds)


def _report_refusals(sender: Sender | None) -> int:
    """Print which records MLflow has refused; return the exit code."""
    if sender is None or not sender.put_aside:
        return 0
    for line in sender.put_aside:
        print(redact(line), file=sys.stderr)
    print(redact(f"{len(sender.put_aside)} refused, the last one {sender.put_aside[-1]}"), file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
