"""Search for a text, such as a bad answer of a model, in the data behind the model.

It shows kept and dropped documents, conversations and preferences with their ids, sources and reasons. The text is cut
into overlapping passages of 12 characters; records that contain most of them come first. The index is built at the
first search after a curation, in .run/search, and takes about three times the size of the texts.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from flows.runtime import arguments, command
from flows.runtime.environment import RUN, make_folder


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.search", __doc__)
    parser.add_argument("text", metavar="TEXT", help="at least three characters")
    parser.add_argument(
        "--number", type=arguments.count, default=10, help="how many records to show at most (default: 10)"
    )
    arguments.add_json(parser)
    parsed = parser.parse_args()
    return command.guarded(lambda: show(parsed.text, max(1, parsed.number), parsed.json))


def show(text: str, number: int, as_json: bool) -> None:
    """Print the records that share most passages with `text`. Raises BadInput."""
    from tasks.search import tasks

    make_folder()
    hits = tasks.search(text, number, Path("data"), RUN / "search")
    if as_json:
        print(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False, indent=1))
    else:
        print(tasks.describe(hits) or "No record contains a passage of this text.")


if __name__ == "__main__":
    sys.exit(main())
