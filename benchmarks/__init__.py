"""Speed and quality beside other tools. `python -m benchmarks.NAME --help` explains a benchmark and runs nothing."""

import argparse
import ast
import sys
from pathlib import Path

# The arguments with which a benchmark starts itself, or is started by another one, are not for users.
STARTED_WITH_ARGUMENTS = {
    "curation", "curation_peers", "filters_peers", "formats", "gpu", "minhash", "minhash_peers", "packing_peers",
    "preference", "preference_peers", "tokenization",
}  # fmt: skip
OPTIONS = {
    "faults": {"--quick": "a selection of the faults, without whole pipelines"},
    "gpu": {"--on-cpu": "measure small models on the CPU, to try the benchmark"},
    "overhead": {"--small": "report share and seconds of the small pipeline, without the default run"},
}


def check_arguments(name: str, arguments: list[str]) -> None:
    """End the process for --help and for arguments that the benchmark `name` does not have."""
    file = Path(__file__).with_name(f"{name}.py")
    if not file.is_file():
        return  # Python itself says that there is no such module
    text = file.read_text(encoding="utf-8")
    if "argparse" in text:
        return
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=ast.get_docstring(ast.parse(text)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option, explanation in OPTIONS.get(name, {}).items():
        parser.add_argument(option, action="store_true", help=explanation)
    if name in STARTED_WITH_ARGUMENTS:
        parser.add_argument("internal", nargs="*", help=argparse.SUPPRESS)
    parser.parse_args(arguments)


# `python -m benchmarks.x` imports this package before benchmarks/x.py, and sys.argv[0] is "-m" meanwhile.
if sys.argv[:1] == ["-m"]:
    module = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    if module.startswith("benchmarks."):
        check_arguments(module.removeprefix("benchmarks."), sys.argv[1:])
