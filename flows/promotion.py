"""Which model is the champion: show it, promote a version, go back to the previous champion.

`update` does what the pipeline does after evaluation: a model that passes its gates becomes the candidate, and the
champion if it is better on the primary metric. data/promotion/log.jsonl records every move; MLflow's aliases follow it.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows import notifications
from flows.runtime import arguments, command, params, session_results, spool, tracking
from flows.versions import contents, mlflow_aliases, subjects
from tasks import pipeline_stages, promotion
from tasks.errors import BadInput
from tasks.promotion import Outcome

DATA = Path("data")
COMMANDS = {
    "status": "print the versions, and which of them has an alias",
    "update": "judge the model of the present run, as the pipeline does after evaluation",
    "promote": "make a version the champion",
    "rollback": "make the previous champion the champion again",
}


def after_evaluation(commit: str | None, run: str = "") -> dict[str, str]:
    """Judge the model of a pipeline that has evaluated it, and write the final report. Raises UserError.

    Returns tags of the pipeline's run. run: its identifier, which the report states.
    """
    loaded: Any = params.load("promotion")
    if not loaded.automatic:
        return {}
    origin, stages = about(commit, loaded.model), pipeline_stages.read_stages()
    outcome = promotion.update(DATA, loaded, stages, origin)
    mlflow_aliases.write_record(outcome, loaded.name, DATA)
    print(describe(outcome), file=sys.stderr, flush=True)
    evaluation: Any = params.load("evaluation")
    stated = {key: value for key, value in {"run": run, **origin}.items() if value}
    promotion.write_report(outcome, describe(outcome), DATA, loaded, stages, evaluation.reference, stated)
    _notify(outcome)
    tags = {"promotion": describe(outcome).removeprefix("promotion: "), "decision": in_short(outcome)}
    return tags | ({"champion": str(outcome.state.champion)} if outcome.state.champion else {})


def after_round(name: str, run: Path, stage: str, data: Path) -> tuple[str, bool]:
    """Judge the model of a round, whose models/ and reports/ are below `run`. Raises UserError.

    Returns the decision as a sentence, and whether the model is worse than the champion.
    """
    loaded: Any = params.load("promotion")
    if not loaded.automatic:
        return "promotion: left to a person (promotion.automatic is false)", False
    origin = {
        "commit": contents.head(),
        "data": session_results.digest(spool.TOKENS),
        "hardware": subjects.hardware(),
        "round": name,
    }
    own = loaded.model_copy(update={"model": stage})
    outcome = promotion.update(data, own, pipeline_stages.read_stages(), origin, run)
    mlflow_aliases.write_record(outcome, loaded.name, data)
    decision = outcome.decision
    is_worse = decision is not None and decision.is_candidate and decision.verdict.outcome == "worse"
    return describe(outcome), is_worse


def about(commit: str | None, stage: str | None) -> dict[str, str]:
    """What the log and the card state about the origin of a model."""
    stage = stage or promotion.final_stage(DATA, pipeline_stages.read_stages())
    return {
        "commit": commit or contents.head(),
        "data": session_results.digest(spool.TOKENS),
        "model_md5": session_results.digest(f"data/models/{stage}"),
        "hardware": subjects.hardware(),
    }


def describe(outcome: Outcome) -> str:
    """What was decided, in one sentence."""
    version = f"version {outcome.version.number} ({outcome.version.stage})" if outcome.version else "the model"
    decision = outcome.decision
    if decision is None:
        return f"promotion: {version} is the champion again"
    if decision.problems:
        return f"promotion: not registered, because {decision.reason}"
    notes = "".join(f"; {note}" for note in outcome.notes)
    if not outcome.promoted and decision.promotes:
        return (
            f"promotion: {version} is no new champion, because {'; '.join(outcome.notes)}. It is better on "
            f"{decision.verdict.metric}: {decision.reason}"
        )
    if outcome.promoted:
        return f"promotion: {version} is the champion; {decision.verdict.metric}: {decision.reason}{notes}"
    return (
        f"promotion: {version} is no new champion, because it is {decision.verdict.outcome} on "
        f"{decision.verdict.metric}: {decision.reason}{notes}"
    )


def in_short(outcome: Outcome) -> str:
    """What became of the model of a pipeline, in few words."""
    if outcome.promoted:
        return "new champion"
    if outcome.version is None or (outcome.decision and outcome.decision.problems):
        return "not registered"
    return "candidate"


def status() -> dict[str, Any]:
    """The versions and their aliases as JSON values. Raises BadInput for a log that was changed."""
    state = promotion.status(DATA)
    root = promotion.root_of(DATA)
    rows = [
        {
            "version": number,
            "stage": entry["stage"],
            "aliases": [
                alias for alias, own in (("champion", state.champion), ("candidate", state.candidate)) if own == number
            ],
            "verdict": entry["verdict"],
            "time": entry["time"],
            "model": entry["model"],
            "commit": entry["commit"],
            "kept": (root / "versions" / str(number) / "model" / "manifest.json").is_file(),
        }
        for number, entry in state.versions.items()
    ]
    return {"champion": state.champion, "candidate": state.candidate, "history": list(state.history), "versions": rows}


def show(body: dict[str, Any]) -> None:
    """Print the versions for people to read."""
    if not body["versions"]:
        print("No model is registered yet. The pipeline registers one after evaluation, if it passes its gates.")
        return
    print(f"{'version':<9}{'stage':<12}{'alias':<22}{'when registered':<22}{'verdict':<16}commit")
    for row in body["versions"]:
        alias = ", ".join(row["aliases"]) or ("" if row["kept"] else "files removed")
        print(
            f"{row['version']:<9}{row['stage']:<12}{alias:<22}{row['time']:<22}{row['verdict']:<16}{row['commit'][:8]}"
        )
    print(f"champions so far: {', '.join(map(str, body['history'])) or 'none'}")


def run(options: argparse.Namespace) -> None:
    """Run one command. Raises UserError."""
    if options.command == "status":
        with arguments.naming_input():
            body = status()
        print(json.dumps(body)) if options.json else show(body)
        return
    loaded: Any = params.load("promotion")
    with arguments.naming_input():
        outcome = _move(options, loaded)
    body = {"message": describe(outcome), "moves": list(outcome.moves), "champion": outcome.state.champion}
    body["decision"] = outcome.decision and {**asdict(outcome.decision), "verdict": outcome.decision.verdict.as_json()}
    print(json.dumps(body, ensure_ascii=False) if options.json else describe(outcome), flush=True)
    mlflow_aliases.write_record(outcome, loaded.name, DATA)
    if outcome.moves:
        tracking.send_in_background()  # MLflow follows; the move itself is complete
    _notify(outcome)


def _move(options: argparse.Namespace, loaded: Any) -> Outcome:
    if options.command == "promote":
        return promotion.promote(DATA, options.version, loaded, options.force, options.reason)
    if options.command == "rollback":
        return promotion.rollback(DATA, loaded, options.reason)
    stages = pipeline_stages.read_stages()
    if promotion.final_stage(DATA, stages) is None:
        raise BadInput(f"there is no trained model in {DATA / 'models'}. `python -m flows.pipeline` trains one.")
    return promotion.update(DATA, loaded, stages, about(None, loaded.model))


def _notify(outcome: Outcome) -> None:
    if outcome.promoted and outcome.version and outcome.decision:
        model = f"version {outcome.version.number} ({outcome.version.stage})"
        notifications.notify_of_promotion(model, outcome.decision.reason)


def main() -> int:
    """Run the command and return its exit code."""
    parser = arguments.parser("flows.promotion", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        own = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        arguments.add_json(own)
        if name == "promote":
            own.add_argument("version", metavar="VERSION", type=int, help="its number in `status`")
            own.add_argument("--force", action="store_true", help="although it is not better than the champion")
        if name in ("promote", "rollback"):
            own.add_argument("--reason", default="", help="why, for the log")
    options = parser.parse_args()
    return command.guarded(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
