"""The order of the work: each flow reads like a table of contents.

`dvc repro` starts the stages with the `python` of the PATH. If it lacks the packages, the one of .venv takes over.
"""

import importlib.util
import os
import sys
from pathlib import Path

PROJECT_PYTHON = Path(".venv/bin/python")
if importlib.util.find_spec("prefect") is None and PROJECT_PYTHON.exists():
    os.execv(PROJECT_PYTHON, [str(PROJECT_PYTHON), *sys.orig_argv[1:]])

from flows.runtime import command, environment, thread_waits  # noqa: E402  (they need the packages)

# `python -m flows.x` imports this package before flows/x.py, and sys.argv[0] is "-m" meanwhile. The flows import
# Prefect first, which takes a second: help and a wrong name are answered here, before that and before a folder is made.
is_command = sys.argv[:1] == ["-m"]
if is_command:
    command.check_flow_arguments()
environment.set_defaults()
thread_waits.adapt()
if not is_command:
    environment.make_folder()
