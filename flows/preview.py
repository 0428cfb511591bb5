"""Print what would be read from files or folders, as which kind and format, and the paragraph of params.yaml for them.

The first rows of each file are read and nothing is written. Files that cannot be read are named as what they are.
"""

import json
import sys
from typing import Any

from flows.runtime import arguments, command


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.preview", __doc__)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a file, folder, glob or address, as in `paths`")
    arguments.add_json(parser)
    parsed = parser.parse_args()
    return command.guarded(lambda: show(parsed.paths, parsed.json))


def show(paths: list[str], as_json: bool) -> None:
    """Print the preview. Raises BadInput if a path does not exist or nothing can be read."""
    from tasks.ingestion import tasks

    result = tasks.preview(paths)
    if as_json:
        print(json.dumps(result.body(), ensure_ascii=False, indent=1))
    else:
        for source in result.body()["sources"]:
            _print_source(source)
        for name, reason in result.not_read.items():
            print(f"not read   {name}: {reason}")
        if result.paragraph:
            print(f"\nparams.yaml (put the entries under `sources` beside those that are there):\n\n{result.paragraph}")
    tasks.check_preview(result, paths)


def _print_source(source: dict[str, Any]) -> None:
    files = f"{source['files']} file{'s' if source['files'] > 1 else ''}"
    formats = ", ".join(source["formats"]) or "no format recognized"
    kept = f"{source['rows_kept']} of the first {source['rows_tried']} rows kept"
    print(f"{source['name']}: {files} read by `{source['source']}` as {source['kind']} ({formats}), {kept}")
    for example in source["examples"]:
        print(f"  example  {example}")
    if source["unused_columns"]:
        print(f"  columns that are not used: {', '.join(source['unused_columns'])}")
    for words, count in source["changes"].items():
        print(f"  changed  {words}: {count}")
    for warning in source["warnings"]:
        print(f"  ! {warning}")


if __name__ == "__main__":
    sys.exit(main())
