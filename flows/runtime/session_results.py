"""What the run of a whole pipeline states in MLflow and Prefect: its title, main metrics, verdict, data and changes."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from flows.runtime import params, results, spool
from flows.runtime.environment import RUN, home
from tasks import reports
from tasks.files import read_json, write_json

PARAMS = RUN / "session_params.json"  # those of the last pipeline that ended well
EVALUATION = "evaluation"
GATES = ("gates_checked", "gates_failed", "gates_not_applicable")
MAX_CHANGES = 20
BOUNDS = ("low", "high", "n")


def describe(session: spool.Session, states: Mapping[str, str], data: Path = Path("data")) -> dict[str, Any]:
    """Return the title and the metrics of a pipeline; `states`: stage -> "run" or "restored"."""
    ran = [stage for stage, state in states.items() if state == "run"]
    num_restored = len(states) - len(ran)
    span = f"{ran[0]} alone" if len(ran) == 1 else f"{ran[0]} to {ran[-1]}" if ran else "nothing run"
    restored = f", {num_restored} restored" if num_restored else ""
    title = f"{span}{restored} {spool.minute(session.start)}"  # MLflow's table shows the first 25 characters
    return {"title": title, "metrics": _metrics(data) if EVALUATION in states else {}}


def tags(checked: Mapping[str, BaseModel], states: Mapping[str, str], data: Path = Path("data")) -> dict[str, str]:
    """Return the verdict, the digest of the tokens, the states of the stages, and the params that have changed."""
    values = {f"stage.{stage}": state for stage, state in states.items()}
    if EVALUATION in states:
        metrics = _metrics(data)
        checks, failures = int(metrics.get(GATES[0], 0)), int(metrics.get(GATES[1], 0))
        values["verdict"] = f"{checks - failures} of {checks} gates passed"
    if tokens := digest(spool.TOKENS):
        values["data"] = tokens
    flat = {f"{stage}.{key}": value for stage, part in checked.items() for key, value in params.flatten(part).items()}
    values["params.changed"] = _changes(flat)
    return values


def described(values: Mapping[str, str]) -> dict[str, str]:
    """Return tags with those that MLflow shows as the description and the source of a pipeline."""
    names = {
        "verdict": "Gates",
        "promotion": "Promotion",
        "champion": "Champion",
        "params.changed": "Changed params",
        "data": "Tokens",
    }
    lines = [f"- {title}: {values[name]}" for name, title in names.items() if name in values]
    return {**values, "mlflow.note.content": "\n".join(lines), "mlflow.source.name": "flows.pipeline"}


def _metrics(data: Path) -> dict[str, float]:
    path = data / "reports" / f"{EVALUATION}.json"
    if not path.is_file():
        return {}
    report = reports.read(path)
    numbers = spool.numbers({name: report[name] for name in (*results.KEY_SCORES, *GATES) if name in report})
    metrics = {name: value for name, value in numbers.items() if name.rsplit("/", 1)[-1] not in BOUNDS}
    if GATES[0] in metrics:
        metrics["gates_passed"] = metrics[GATES[0]] - metrics.get(GATES[1], 0)
    return metrics


def digest(path: str) -> str:
    """Return DVC's hash of an output, as dvc.lock states it."""
    with contextlib.suppress(OSError, yaml.YAMLError, AttributeError, TypeError):
        body = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
        outs = [out for stage in body["stages"].values() for out in stage.get("outs", [])]
        return next((str(out["md5"]) for out in outs if out["path"] == path), "")
    return ""


def _changes(flat: Mapping[str, Any]) -> str:
    """Return the params that differ from those of the last pipeline, and remember these."""
    path, previous = home() / PARAMS, dict[str, Any]()
    with contextlib.suppress(OSError, ValueError):
        previous = dict(read_json(path))
    lines = [f"{key}: {previous[key]} -> {flat[key]}" for key in flat if key in previous and previous[key] != flat[key]]
    with contextlib.suppress(OSError):
        write_json(path, {**previous, **flat})
    more = [f"{len(lines) - MAX_CHANGES} more"] if len(lines) > MAX_CHANGES else []
    return "; ".join([*lines[:MAX_CHANGES], *more]) or "none"
