"""Remove records on request: show which records match, which models have seen them, and list them for every ingestion.

The request names the id of a record, or a part of its text (--matching), which is compared without differences of case,
width and spaces. Nothing is changed without --yes. The list (data/raw/.removals.json) contains ids and hashes, no text;
commit it to git. The records leave the tables, the tokens and the models when the stale stages have run again.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.runtime import arguments, artifact_checks, command, tracked_runs, versioning
from flows.runtime.tracking import uri
from flows.versions import contents
from tasks import tables
from tasks.addresses import redact
from tasks.errors import BadInput, BadParams

CURATED = {
    "document": Path("curated"),
    "conversation": Path("conversations/curated"),
    "preference": Path("preferences/curated"),
}
TOKENS = "data/tokens/{kind}s"
MAX_SHOWN = 20


def find(record_id: str | None, matching: str | None, data: Path = Path("data")) -> dict[str, Any]:
    """Return the matching records and the models that have seen them. Raises BadInput if nothing matches."""
    from tasks.ingestion import tasks

    matches = tasks.find_records(data, record_id, matching)
    if not matches:
        raise BadInput(
            "No record in data/documents, data/conversations/raw and data/preferences/raw matches. An id is written as "
            "these tables and `python -m flows.search TEXT` state it: SOURCE/ID."
        )
    curated = {kind: _ids(data / folder) for kind, folder in CURATED.items()}
    trained = [match for match in matches if match.split == "train" and match.id in curated[match.kind]]
    tokens = [TOKENS.format(kind=kind) for kind in sorted({match.kind for match in trained})]
    return {
        "matches": matches,
        "trained": {match.id for match in trained},
        "models": sorted({model for path in tokens for model in contents.models_trained_on(path)}),
        **_registered(tokens),
    }


def _registered(paths: list[str]) -> dict[str, Any]:
    """Return the registered models made from the present version of `paths`, or why MLflow did not answer."""
    models = set[str]()
    try:
        for path in paths:
            if md5 := artifact_checks.locked_hash(Path(versioning.LOCK), path):
                models |= set(tracked_runs.models_made_from(path, md5))
    except Exception as error:  # any error of a server, a network or a database
        return {"registered": [], "registered_error": redact(f"MLflow at {uri()} did not answer: {error}")}
    return {"registered": sorted(models)}


def _ids(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {record_id for table in tables.batches(folder, columns=["id"]) for record_id in table["id"].to_pylist()}


def remove(record_id: str | None, matching: str | None, is_confirmed: bool, as_json: bool) -> None:
    """Show what matches; if `is_confirmed`, also list it as removed and show the stale stages."""
    from tasks.ingestion import tasks

    result = find(record_id, matching)
    body = {**result, "matches": [asdict(match) for match in result["matches"]], "trained": sorted(result["trained"])}
    if is_confirmed:
        body["added"] = tasks.remove_records(Path("data"), result["matches"], record_id is not None)
        body["stale"] = versioning.stale()
    if as_json:
        print(json.dumps(body, ensure_ascii=False, indent=1))
    else:
        _show(body)


def _show(body: dict[str, Any]) -> None:
    for match in body["matches"][:MAX_SHOWN]:
        use = "trained on" if match["id"] in body["trained"] else "not trained on"
        print(f"{match['kind']}  {match['id']}  ({match['split']}, {use})  {match['text']}")
    if len(body["matches"]) > MAX_SHOWN:
        print(f"... and {len(body['matches']) - MAX_SHOWN} more; --json lists all")
    num_matches = len(body["matches"])
    print(f"\n{num_matches} record{' matches' if num_matches == 1 else 's match'}.")
    models = ", ".join(body["models"]) or "none"
    print(f"Models in data/models that have seen what matches, directly or through their base: {models}")
    print(f"Registered models made from this version of the data: {', '.join(body['registered']) or 'none'}")
    print(body.get("registered_error", "Models made from other versions of the data are not compared."))
    if "added" not in body:
        print("\nNothing was changed. Repeat the command with --yes to remove these records.")
        return
    added = "1 entry was" if body["added"] == 1 else f"{body['added']} entries were"
    print(f"\n{added} added to data/raw/.removals.json, which every ingestion applies.")
    print(f"Stale stages: {', '.join(body['stale'])}, and those that depend on them. `python -m flows.pipeline` runs")
    print(
        "them. Earlier versions in DVC's cache, its remotes, data/raw and registered models still contain the records:"
    )
    print("delete the raw records, run `dvc gc --workspace`, and delete the versions in MLflow.")


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.removal", __doc__)
    parser.add_argument("id", nargs="?", metavar="ID", help="the id of a record, as the tables state it: SOURCE/ID")
    parser.add_argument("--matching", metavar="TEXT", help="all records whose text contains TEXT")
    parser.add_argument("--yes", action="store_true", help="remove the records; without it, they are only shown")
    arguments.add_json(parser)
    parsed = parser.parse_args()

    def work() -> None:
        if (parsed.id is None) == (parsed.matching is None):
            raise BadParams("expected either an ID or --matching TEXT")
        remove(parsed.id, parsed.matching, parsed.yes, parsed.json)

    return command.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
