"""Train the shipped spam classifier again. python -m flows.spam_classifier [--data FOLDER] [--output FILE]

The examples are written ones and public sets (docs/NOTICE.md). Your own classifier: docs/classifier.md.
"""

import argparse
import sys
from pathlib import Path

from flows.runtime import arguments, command
from tasks.curation import tasks


def main(argv: list[str] | None = None) -> int:
    """Train and write the classifier; return the exit code."""
    return command.guarded(lambda: _train(_parse(argv)))


def _train(args: argparse.Namespace) -> None:
    print(tasks.train_spam_classifier(args.data, args.output))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments.parser("flows.spam_classifier", __doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the public sets")
    parser.add_argument("--output", type=Path, default=None, help="file to write; the default is the shipped one")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
