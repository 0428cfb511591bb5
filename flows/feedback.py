"""The log of votes (data/raw/feedback): a report, deletion on request, and exchange with Label Studio.

report prints what the votes say: annotators, agreement, side effect, flagged votes, models by win rate, and how many
votes are missing. delete removes all records of an annotator or of a conversation from the log and from the rounds that
used them. export writes a file that Label Studio imports, import adds the annotations of a file from Label Studio.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.runtime import arguments, command
from tasks import feedback
from tasks.errors import BadInput, BadParams
from tasks.files import read_json, write_json

ROUNDS = "rounds/*/votes"  # below the data folder: copies of the votes that each round has used


def parse(command_line: list[str] | None) -> argparse.Namespace:
    """Parse the arguments; an invalid one ends the process with exit code 2."""
    parser = arguments.parser("flows.feedback", __doc__)
    parser.add_argument("action", choices=("report", "delete", "export", "import"), help="what to do")
    parser.add_argument("file", nargs="?", type=Path, help="the file to write (export) or to read (import)")
    parser.add_argument("--annotator", help="delete: the id of the annotator, as in the log")
    parser.add_argument("--conversation", help="delete: the id of the conversation, as in the log")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder that contains raw/ (default data)")
    arguments.add_json(parser)
    return parser.parse_args(command_line)


def main(command_line: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    args = parse(command_line)
    actions = {"report": report, "delete": delete, "export": export, "import": import_file}
    return command.guarded(lambda: actions[args.action](args))


def report(args: argparse.Namespace) -> None:
    """Print the tables of the source `feedback`. Raises BadInput if there is no log."""
    from tasks.ingestion import tasks

    tables, notes = tasks.source_tables("feedback", {"paths": [str(args.data / feedback.FOLDER)]})
    if args.json:
        print(json.dumps({"tables": tables, "notes": notes}, ensure_ascii=False, indent=1))
        return
    for name, rows in tables.items():
        if rows:
            print(f"\n{name}")
            _print_table(rows)
    for note in notes:
        print(f"\n{note}")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with aligned columns."""
    lines = [list(rows[0]), *([("" if value is None else str(value)) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def delete(args: argparse.Namespace) -> None:
    """Remove the records of an annotator or a conversation. Raises BadParams without one of both, BadInput for none."""
    chosen = {name: getattr(args, name) for name in ("annotator", "conversation") if getattr(args, name)}
    if len(chosen) != 1:
        raise BadParams("delete needs --annotator ID or --conversation ID, one of both, as they are in the log.")
    ((name, value),) = chosen.items()

    def is_erased(record: Mapping[str, Any]) -> bool:
        return bool(record.get(name) == value)

    folders = [args.data / feedback.FOLDER, *sorted(args.data.glob(ROUNDS))]
    numbers = {str(folder): len(feedback.erase(folder, is_erased)) for folder in folders}
    if not any(numbers.values()):
        raise BadInput(f"no record in {', '.join(numbers)} has the {name} {value!r}.")
    if args.json:
        print(json.dumps({"deleted": numbers}))
        return
    for folder, count in numbers.items():
        print(f"{folder}: {count} records deleted")
    print(
        "Data sets and models that were made from them still contain them: run `make run` and the next round, then "
        "`dvc gc --workspace` to remove older versions from DVC's cache, and restart a running server."
    )


def export(args: argparse.Namespace) -> None:
    """Write the comparisons as tasks of Label Studio, and beside them its labeling configuration."""
    path = _file(args)
    log = args.data / feedback.FOLDER
    records = [record for file in sorted(log.glob("*.jsonl")) for record in feedback.read(file)]
    tasks, not_exported = feedback.to_label_studio(records)
    if not tasks:
        raise BadInput(f"{log} has no comparison and no ranking to export.")
    write_json(path, tasks)
    path.with_suffix(".xml").write_text(feedback.LABELING_CONFIG, encoding="utf-8")
    _print_counts(args, {"tasks": len(tasks)}, not_exported)


def import_file(args: argparse.Namespace) -> None:
    """Append the annotations of a file of Label Studio to the log, each once. Raises BadInput."""
    path = _file(args)
    if not path.is_file():
        raise BadInput(f"{path} does not exist.")
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise BadInput(f"{path} has no list of tasks. Export it from Label Studio in the format JSON.")
    records, skipped = feedback.from_label_studio(tasks)
    log = feedback.FeedbackLog(args.data / feedback.FOLDER)
    num_new = sum(log.append(record) for record in records)
    _print_counts(args, {"imported": num_new, "imported before": len(records) - num_new}, skipped)


def _file(args: argparse.Namespace) -> Path:
    if args.file is None:
        raise BadParams(f"{args.action} needs a file: python -m flows.feedback {args.action} FILE.json")
    return Path(args.file)


def _print_counts(args: argparse.Namespace, counts: Mapping[str, int], others: Counter[str]) -> None:
    if args.json:
        print(json.dumps({**counts, "not_used": dict(others)}, ensure_ascii=False))
        return
    for name, count in counts.items():
        print(f"{name}: {count}")
    for name, count in others.items():
        print(f"not used, {name}: {count}")


if __name__ == "__main__":
    sys.exit(main())
