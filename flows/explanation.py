"""Print the signals of one document, the reason of every filter for it, and what curation did with it."""

import sys
from pathlib import Path

from flows.runtime import arguments, command, params


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.explanation", __doc__)
    parser.add_argument("document", help="the id of a document, as in the column `id` of data/documents")
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder of the data (data)")
    parsed = parser.parse_args()
    return command.guarded(lambda: explain(parsed.document, parsed.data))


def explain(document: str, data: Path) -> None:
    """Print the explanation of the document with this id. Raises BadInput if no document has this id."""
    from tasks.curation import tasks

    tasks.explain(document, tasks.Params.model_validate(params.load("curation").model_dump()), data)


if __name__ == "__main__":
    sys.exit(main())
