"""Parsers of the commands `python -m flows.<command>`: help from the docstring, no unknown argument, `--json`."""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import BadArgument, BadInput, BadParams


def parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser for the module `command`. Its help shows `description`; an unknown argument exits with 2."""
    return argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=(description or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_json(arguments: argparse.ArgumentParser) -> None:
    """Add the option --json, which every command has that prints results."""
    arguments.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def count(text: str) -> int:
    """The value of an option that counts something: an integer, 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, not {text}")
    return number


def margin(text: str) -> float:
    """The value of an option that is a size: a number, 0 or more."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, not {text}")
    return number


@contextmanager
def naming_input() -> Iterator[None]:
    """Turn BadInput of the block, which reads what an argument names, into BadArgument."""
    try:
        yield
    except BadInput as error:
        raise BadArgument(error) from error


def make_folder(folder: Path) -> None:
    """Make the folder that an option names, before the work begins. Raises BadParams if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadParams(f"the folder {folder} cannot be made ({error.strerror}). Choose another one.") from error
