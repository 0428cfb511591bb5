"""Compile the kernels of stages, and what torch's compiler needs: `python -m tasks.precompilation STAGE ...`.

The process ends with the one that has started it, which holds the other end of its standard input open.
"""

import argparse
import importlib
import os
import sys
import threading
from pathlib import Path

from tasks import compiled, precompilation

NICENESS = 5  # the stage that runs meanwhile goes first


def main() -> None:
    """Compile, in the reverse order of each stage: the stage itself, once it runs, begins at the other end."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.precompilation",
        description="Compile what stages need before they run. The pipeline starts this; it ends when the input ends.",
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="curation or tokenization: its kernels are compiled")
    parser.add_argument("--torch-cache", type=Path, help="where torch's compiler keeps its results")
    arguments = parser.parse_args()
    threading.Thread(target=_end_with_input, daemon=True).start()
    os.nice(NICENESS)
    for stage in arguments.stages:
        with compiled.deferred():
            for module in precompilation.kernel_modules(stage):
                importlib.import_module(module)
        compiled.compile_waiting(f"tasks.{stage}", last_first=True)
    if arguments.torch_cache is not None:
        from tasks.training.language import compilation

        compilation.find_instructions(arguments.torch_cache)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
