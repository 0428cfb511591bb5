"""The order of the work: each flow reads as a table of contents.

`dvc repro` starts the stages by `python`; where that is not the one of .venv, it hands over to it.
"""

import importlib.util
import os
import sys
from pathlib import Path

OURS = Path(".venv/bin/python")
if importlib.util.find_spec("prefect") is None and OURS.exists():
    os.execv(OURS, [str(OURS), *sys.orig_argv[1:]])

from flows.runtime import environment  # noqa: E402  (needs the packages)

environment.prepare()
