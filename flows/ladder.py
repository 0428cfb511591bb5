"""Forecast the loss of a large pretraining from small ones, and register the forecast before the large run.

The target is the section pretrain of params.yaml with the values of --target. Smaller models of its shape are trained
with the schedule wsd, each for several numbers of tokens; a longer run continues from the stable part of the shorter
one. Then a scaling law is fitted. The forecast is written to data/ladder/forecast.json, which DVC keeps, and MLflow
receives its sha256. The target's own learning rate must decay, too. Results are kept in .run/ladder, so that the
command can be interrupted and repeated. Examples:

  python -m flows.ladder --target size=small
  python -m flows.ladder --compare          # the forecast beside the result, as the run of pretrain prints it, too
"""

import argparse
import hashlib
import json
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow

from flows import notifications
from flows.proxies import changes
from flows.proxies import runs as proxies
from flows.runtime import arguments, command, embedded, params, spool, tracking
from flows.versions import contents
from tasks import pipeline_stages
from tasks.errors import BadInput, BadParams, UserError
from tasks.files import MANIFEST, read_json, sha256
from tasks.ladder import tasks as ladders
from tasks.reports import read_csv
from tasks.training import tasks as training

STAGE, WORK, DATA = "pretrain", Path(".run/ladder"), Path("data")
STEPS, POLL_SECONDS = "steps.csv", 5.0  # the log of the steps, and how often it is read
# What `size` sets: of a target with a size, the values of params.yaml for these keys do not count.
SET_BY_SIZE = ("model.width", "model.num_layers", "model.num_heads", "sequence_length", "global_batch_size", "steps")


def main(argv: list[str] | None = None) -> int:
    """Register a forecast, or compare the registered one; return the exit code."""
    parsed = _parse(argv)
    return command.guarded(lambda: _compare() if parsed.compare else _register(parsed))


def _register(parsed: argparse.Namespace) -> None:
    num_left = (parsed.rungs - 1) * parsed.budgets
    if num_left < ladders.MIN_RUNS:
        raise BadParams(
            f"--rungs {parsed.rungs} --budgets {parsed.budgets}: without the largest rung {num_left} runs are left, "
            f"but a scaling law needs {ladders.MIN_RUNS}. Use more of them, such as --rungs 3 --budgets 3."
        )
    section = target_section(parsed.target)

    def work() -> None:
        session, settings = spool.Session(), {"target": " ".join(parsed.target), "rungs": parsed.rungs}
        with proxies.exclusive(WORK, "a ladder"), tracking.following():
            with session.recording(ladders.STAGE, settings, {}, WORK / "steps.csv") as record:
                result = ladder(section, parsed.rungs, parsed.budgets, parsed.max_own_error)
                record.body["tags"]["forecast_sha256"] = result["sha256"]
            record.write("finished")
        print(json.dumps(result, indent=1) if parsed.json else "\n".join(ladders.lines(result)))

    embedded.flow_run(lambda: params.section(STAGE, section, "--target"), work)


@flow(name="ladder")
def ladder(section: dict[str, Any], rungs: int, budgets: int, max_own_error: float) -> dict[str, Any]:
    """Train the rungs below the target `section`, and register the forecast. Raises BadInput, BadParams."""
    plan = proxies.plan(section, "--target", DATA, rungs, budgets)
    runs, stable = list[ladders.Run](), list[ladders.StablePoint]()
    for rung in reversed(plan.rungs):  # the small ones first: what is wrong shows early
        shorter: tuple[Path, int] | None = None
        for steps in rung.steps:
            run, points, shorter = train_rung(section, rung.model, steps, rung.warmup, shorter)
            print(f"{rung.name}: {steps} steps, {run.loss:.4f} bits per byte", file=sys.stderr, flush=True)
            runs.append(run)
            stable += points
    result = ladders.register(runs, stable, plan.weights, plan.tokens, max_own_error, DATA)
    ladders.write_report(result, DATA)
    contents.add(str(DATA / ladders.FILE))
    return result


def train_rung(
    section: Mapping[str, Any], model: Mapping[str, int], steps: int, warmup: int, shorter: tuple[Path, int] | None
) -> tuple[ladders.Run, list[ladders.StablePoint], tuple[Path, int]]:
    """Train one rung for `steps` steps; return its result, and what it has before its learning rate decays: losses,
    and the checkpoints and the last step that a longer run shares.

    shorter: the latter of the next shorter run of this rung. The result of an earlier call with equal settings and data
    is read from .run/ladder.
    """
    last_stable = ladders.last_stable_step(steps, warmup)
    body = {key: value for key, value in section.items() if key != "size"}
    body |= {"model": {**section["model"], **model}, "schedule": "wsd", "steps": steps, "warmup_steps": warmup}
    body |= {"evaluate_every": last_stable, "checkpoint_every": last_stable, "keep_checkpoints": 2}
    rung_params: Any = params.section(STAGE, body, "--target")
    tokens = DATA / "tokens"
    key = hashlib.sha256((rung_params.model_dump_json() + sha256(tokens / MANIFEST)).encode()).hexdigest()[:16]
    work = WORK / key

    def train() -> dict[str, Any]:
        proxies.link(tokens, work / "tokens")
        if shorter is not None and not (work / "checkpoints").is_dir():
            training.continue_longer(rung_params, work, shorter[0], work / "checkpoints", shorter[1])
        report = proxies.train(STAGE, rung_params, work)
        counts = {"weights": report.counts["num_parameters"], "tokens": report.counts["num_tokens"]}
        rows = [row for row in report.tables["steps"] if row.get("validation_loss") is not None and row["step"] < steps]
        losses = {str(row["step"]): bits_per_byte(float(row["validation_loss"])) for row in rows}
        return {**counts, "loss": bits_per_byte(_validation_loss(report.scores)), "stable": losses}

    result = proxies.once(work, train)
    per_step, weights = result["tokens"] / steps, result["weights"]
    points = [ladders.StablePoint(weights, int(step) * per_step, loss) for step, loss in result["stable"].items()]
    return ladders.Run(weights, result["tokens"], result["loss"]), points, (work / "checkpoints", last_stable)


def bits_per_byte(nats_per_token: float) -> float:
    """The validation loss in bits per byte of the validation documents, which does not depend on the tokenizer."""
    counts = read_json(DATA / "tokens" / MANIFEST)["documents"]["validation"]
    return nats_per_token / math.log(2) * float(counts["num_tokens"] / counts["num_bytes"])


def _validation_loss(scores: Mapping[str, Any]) -> float:
    """The loss at the end of a run of pretrain, in nats per token. Raises BadInput if none was measured."""
    if "validation_loss" not in scores:
        raise BadInput(
            "pretrain has measured no validation loss, because the validation documents do not fill a row of "
            "sequence_length tokens. Increase ingestion.validation_share, or add documents."
        )
    return float(scores["validation_loss"])


def target_section(values: list[str]) -> dict[str, Any]:
    """The section pretrain of params.yaml with the values KEY=VALUE, such as size=small or model.width=256.

    Raises BadParams for another form, and BadInput without tokens.
    """
    if not (DATA / "tokens" / MANIFEST).is_file():
        raise BadInput(f"there is no {DATA / 'tokens' / MANIFEST}. Run `python -m flows.pipeline --to tokenization`.")
    body, _ = pipeline_stages.read_yaml(params.FILE)
    section = dict(body.get(STAGE) or {})
    section["model"] = dict(section.get("model") or {})
    settings = dict(changes.setting(value, "--target") for value in values)
    if "size" in settings:
        for key in SET_BY_SIZE:
            changes.parent_of(section, key).pop(key.split(".")[-1], None)
    for key, value in settings.items():
        changes.set_value(section, key, value)
    target: Any = params.section(STAGE, section, "--target")
    if target.base is not None or target.objective != "causal":
        raise BadParams(
            "--target: a ladder forecasts a causal model with random first weights; leave out base and objective."
        )
    return proxies.without_size(section, target)


@contextmanager
def watching(stage_params: Any, checkpoints: Path) -> Iterator[None]:
    """Raise an alarm while pretrain trains in the block, if its curve leaves the band of its registered forecast.

    The evaluations that `evaluate_every` asks for are compared. Nothing happens without a forecast of this run.
    """
    tokens = float(stage_params.steps * stage_params.global_batch_size * stage_params.sequence_length)
    forecast = _forecast_of(stage_params, tokens)
    if forecast is None:
        yield
        return
    ending = threading.Event()
    thread = threading.Thread(
        target=_watch, args=(forecast, checkpoints / STEPS, tokens / stage_params.steps, ending), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join(POLL_SECONDS)


def _forecast_of(stage_params: Any, tokens: float) -> dict[str, Any] | None:
    """The registered forecast of a run of pretrain; None if there is none that can be read."""
    manifest = DATA / "tokens" / MANIFEST
    if stage_params.base is not None or stage_params.objective != "causal" or not tokens or not manifest.is_file():
        return None
    try:
        weights = training.num_weights(stage_params, int(read_json(manifest)["vocab_size"]))
        return ladders.forecast_of(DATA, weights, tokens)
    except UserError as problem:  # the training itself needs no forecast
        print(f"warning: no alarm can be raised: {problem}", file=sys.stderr, flush=True)
        return None


def _watch(forecast: dict[str, Any], file: Path, per_step: float, ending: threading.Event) -> None:
    """Read the step log every few seconds until `ending`, and once more then; report when the curve leaves the band."""
    is_last = is_outside = False
    reported = set[float]()  # steps
    while not is_last:
        is_last = ending.wait(POLL_SECONDS)
        for step, nats in _validation_losses(file):
            if step in reported:
                continue
            reported.add(step)
            sentence = ladders.alarm(forecast, step * per_step, bits_per_byte(nats))
            if sentence and not is_outside:
                print(sentence, file=sys.stderr, flush=True)
                notifications.notify("a pretraining has left its forecast", sentence)
            is_outside = sentence is not None


def _validation_losses(file: Path) -> list[tuple[float, float]]:
    """The (step, nats per token) of the evaluations in a log of steps, which may not exist yet."""
    rows = read_csv(file)
    return [(float(row["step"]), float(row["validation_loss"])) for row in rows if row.get("validation_loss")]


def _compare() -> None:
    for file in (DATA / "reports" / f"{STAGE}.json", DATA / "tokens" / MANIFEST):
        if not file.is_file():
            raise BadInput(f"there is no {file}. Run `python -m flows.pipeline --to {STAGE}`.")
    report = read_json(DATA / "reports" / f"{STAGE}.json")
    counts = report["counts"]
    loss = bits_per_byte(_validation_loss(report))
    print(ladders.compare(DATA, loss, counts["num_parameters"], counts["num_tokens"]))


def print_comparison() -> None:
    """Print the registered forecast beside the result of the run that has just ended, or why that is impossible."""
    try:
        _compare()
    except UserError as problem:
        print(f"the forecast in {DATA / ladders.FILE} is not compared: {problem}", file=sys.stderr, flush=True)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments.parser("flows.ladder", __doc__)
    parser.add_argument("--target", nargs="+", metavar="KEY=VALUE", default=[], help="size=small, model.width=256 ...")
    parser.add_argument("--rungs", type=int, choices=range(3, 6), default=3, help="smaller models (default 3)")
    parser.add_argument("--budgets", type=int, choices=range(2, 6), default=3, help="runs of each (default 3)")
    parser.add_argument(
        "--max-own-error", type=arguments.margin, default=0.01, help="largest leave-largest-out error (default .01)"
    )
    parser.add_argument("--compare", action="store_true", help="print the forecast beside the result of pretrain")
    arguments.add_json(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
