"""Parsers of the commands `python -m flows.<command>`: help from the docstring, no unknown argument, `--json`."""

import argparse


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
