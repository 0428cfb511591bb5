"""The aliases of promotion in MLflow's registry, which follow the log on the disk through the spool.

A version is registered by reference: MLflow keeps the path and the sha256 of the model, not its files.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.runtime import spool
from tasks.promotion import CANDIDATE, CHAMPION, Outcome, root_of

KIND = "promotion"
NUMBER, ENTRIES = "athanor.version", "athanor.log_entries"
MAX_TAG_CHARS = 5000


def write_record(outcome: Outcome, name: str, data: Path) -> None:
    """Leave a record of the moves in the spool, from which they are sent to MLflow. Raises OSError for a full disk."""
    if not outcome.moves or outcome.version is None:
        return
    version, last = outcome.version, outcome.moves[-1]
    folder = (root_of(data) / "versions" / str(version.number) / "model").absolute()
    body = {
        "kind": KIND,
        "name": name,
        "aliases": {CANDIDATE: outcome.state.candidate, CHAMPION: outcome.state.champion},
        "entries": last["number"],
        "version": {
            NUMBER: version.number,
            "path": str(folder),
            "sha256": version.digest,
            "report": version.report,
            "stage": version.stage,
            "verdict": str(outcome.moves[0].get("verdict", "")),
            "reason": str(outcome.moves[0].get("reason", "")),
            "log.hash": last["hash"],
            **{key: str(value) for key, value in version.about.items()},
        },
        "md5": str(version.about.get("model_md5", "")),
    }
    record = spool.Session().new_record(KIND, {}, {}, Path("none"))
    record.body |= body
    card = folder / "README.md"
    record.body["card"] = card.read_text(encoding="utf-8") if card.is_file() else ""
    record.write("finished")


def follow(client: Any, experiment: str, record: Mapping[str, Any]) -> None:
    """Register the version of a record and set both aliases, unless a later record was sent before."""
    import mlflow
    from mlflow.exceptions import MlflowException

    name, tags = record["name"], {key: str(value)[:MAX_TAG_CHARS] for key, value in record["version"].items()}
    with contextlib.suppress(MlflowException):  # the model exists
        client.create_registered_model(name)
    numbers = {
        version.tags.get(NUMBER): version.version for version in client.search_model_versions(f"name = '{name}'")
    }
    if tags[NUMBER] not in numbers:
        run_id = _run_that_wrote(client, experiment, tags["stage"], record["md5"])
        logged = mlflow.create_external_model(f"{name}-{tags[NUMBER]}", run_id, tags, experiment_id=experiment)
        version = client.create_model_version(
            name, f"models:/{logged.model_id}", run_id, tags=tags, model_id=logged.model_id, description=record["card"]
        )
        numbers[tags[NUMBER]] = version.version
    if int(client.get_registered_model(name).tags.get(ENTRIES, 0)) >= record["entries"]:
        return
    for alias, number in record["aliases"].items():
        if str(number) in numbers:
            client.set_registered_model_alias(name, alias, numbers[str(number)])
    client.set_registered_model_tag(name, ENTRIES, str(record["entries"]))
    client.set_registered_model_tag(name, "athanor.log_hash", tags["log.hash"])


def _run_that_wrote(client: Any, experiment: str, stage: str, md5: str) -> str | None:
    """The run of a stage that wrote a model with this DVC hash; None if MLflow does not know it."""
    query = f"tags.`dvc.out.data/models/{stage}` = '{md5}'"
    runs = client.search_runs([experiment], query, max_results=1) if md5 else []
    return str(runs[0].info.run_id) if runs else None
