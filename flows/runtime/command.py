"""What all commands share: the arguments of the flows, error messages, Ctrl-C and exit codes."""

import argparse
import ast
import contextlib
import ctypes
import errno
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import psutil

from flows.runtime import arguments, params, stage_run
from tasks import pipeline_stages
from tasks.addresses import redact
from tasks.errors import UserError

INTERRUPTED, TERMINATED = 130, 143  # the exit codes that shells give to a process ended by Ctrl-C or SIGTERM
NO_MEMORY = "can't allocate memory"  # torch's words on a CPU
GRACE_SECONDS = 8.0  # how long Prefect may take to record that a run was interrupted
AGAIN_SECONDS = 0.1  # until an interruption that a finalizer has dropped is raised again
TRAINING, PIPELINE = "training", "pipeline"


def main(flow: Any) -> NoReturn:
    """Run the stage of a Prefect flow as a process of its own. `flow` is the flow of the calling file."""
    stage = flow_arguments(flow.name).stage
    sys.exit(guarded(lambda: stage_run.run_alone(stage, flow)))


def check_flow_arguments() -> None:
    """Validate the arguments of a flow, and the names in params.yaml; end the process if one of them is wrong.

    Does nothing for other commands, which parse their arguments themselves. Imports neither Prefect nor torch.
    """
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")  # sys.argv is ["-m", arguments ...] at this time
    name = module.removeprefix("flows.")
    if module == name:
        return
    if name in (TRAINING, PIPELINE) or (
        name in params.stages() and name not in params.NO_FLOWS and not params.is_training(name)
    ):

        def check() -> None:
            flow_arguments(name)
            params.check_names()

        if code := guarded(check):
            sys.exit(code)


def flow_arguments(name: str) -> argparse.Namespace:
    """Parse the arguments of the flow file `name`: `stage` is the stage to run. Raises BadParams for an unknown stage.

    Only training runs several stages; the file names the stage otherwise.
    """
    parser = arguments.parser(f"flows.{name}", _docstring(f"flows.{name}"))
    if name == TRAINING:
        stages = [stage for stage in params.stages() if params.is_training(stage)]
        parser.add_argument("stage", metavar="STAGE", help=f"the stage to train: {', '.join(stages)}")
        parsed = parser.parse_args()
        params.check_stage(parsed.stage, stages)
    elif name == PIPELINE:
        parser.add_argument("--to", metavar="STAGE", help="stop when this stage of dvc.yaml is up to date")
        arguments.add_json(parser)
        parsed = parser.parse_args()
        if parsed.to is not None:
            params.check_stage(parsed.to, [stage.name for stage in pipeline_stages.read_stages()])
    else:
        parsed = parser.parse_args()
        parsed.stage = name
    return parsed


def guarded(work: Callable[[], object]) -> int:
    """Call `work` and return the exit code.

    An error that the user can correct prints one message. Any other exception is a bug and keeps its traceback.
    """
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        work()
    except UserError as error:
        print(f"athanor: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:
        return TERMINATED if error.args == (TERMINATED,) else INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = _advice(error)
        if message is None:
            raise
        print(f"athanor: {redact(message)}", file=sys.stderr)
        return 1
    return 0


def _advice(error: BaseException) -> str | None:
    """Return what the user can do about an error of the machine; None for any other error."""
    if _is_disk_full(error):
        return f"the disk is full ({error}). Free some space and run the command again: it continues from there."
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError" or NO_MEMORY in str(cause):
            return (
                f"there is not enough memory ({str(cause)[:200]}). Halve micro_batch_size of the stage, which changes "
                "no result, because the gradients of a step are added up; if it is 1 already, halve sequence_length or "
                "max_length, or set num_threads of curation to 1. The next run continues."
            )
        if isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return (
                f"{cause.filename or 'a file'} cannot be written or read ({cause.strerror}). Change the permissions of "
                "the folder, or mount it for writing, and run the command again: it continues from there."
            )
    return None


def _docstring(module: str) -> str | None:
    """Return the docstring of a module without importing it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))


def _is_disk_full(error: BaseException) -> bool:
    """Whether `error`, or an exception that caused it, says that no space is left."""
    return any(
        getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(cause)
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and the exceptions that caused it."""
    checked_ids = set[int]()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in checked_ids:  # an exception that is raised again is its own cause
        yield cause
        checked_ids.add(id(cause))
        cause = cause.__cause__ or cause.__context__


def _interrupt(signal_number: int, _frame: FrameType | None) -> None:
    """Stop in order at the first Ctrl-C or SIGTERM, at most GRACE_SECONDS later; stop at once at the second.

    Every file is written under a temporary name and renamed, so that both leave only complete files.
    """
    code = TERMINATED if signal_number == signal.SIGTERM else INTERRUPTED
    signal.signal(signal_number, lambda *_: _exit_now(code))
    print(
        "\nathanor: interrupted. Completed work is kept; the next run continues from it.", file=sys.stderr, flush=True
    )
    timer = threading.Timer(GRACE_SECONDS, _exit_now, (code,))
    timer.daemon = True
    timer.start()
    sys.unraisablehook = _raise_again
    raise KeyboardInterrupt(*([TERMINATED] if code == TERMINATED else []))


class _Terminated(KeyboardInterrupt):
    """A KeyboardInterrupt by SIGTERM. The interpreter makes an exception that it raises in a thread from its class."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def _raise_again(unraisable: Any) -> None:
    """Raise the interruption again, if the signal arrived in a finalizer, whose exceptions Python prints and drops."""
    error = unraisable.exc_value
    if not isinstance(error, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    kind = _Terminated if error.args == (TERMINATED,) else KeyboardInterrupt
    thread_and_error = ctypes.c_ulong(threading.main_thread().ident or 0), ctypes.py_object(kind)
    # Not at once, which would raise it in this function.
    timer = threading.Timer(AGAIN_SECONDS, ctypes.pythonapi.PyThreadState_SetAsyncExc, thread_and_error)
    timer.daemon = True
    timer.start()


def _exit_now(code: int) -> None:
    """End this process and every process that it has started."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(code)
