"""A scaling ladder: the rungs of a target, the forecast from their results, and its comparison with the result."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tasks.errors import BadInput
from tasks.files import read_json, sha256, write_json
from tasks.ladder import band, forecast, rungs
from tasks.ladder import fit as fitting
from tasks.ladder.band import StablePoint as StablePoint  # for flows.ladder
from tasks.ladder.fit import MIN_RUNS as MIN_RUNS  # for flows.ladder, as the next one
from tasks.ladder.fit import Run as Run
from tasks.reports import Report, Score

FILE, STAGE = Path("ladder/forecast.json"), "ladder"
SAME = 0.01  # a run with weights and tokens within 1 % of the forecast's is the one that was forecast


class Plan(NamedTuple):
    """The rungs of a ladder, and the weights and tokens of its target."""

    rungs: list[rungs.Rung]
    weights: float
    tokens: float


def plan(target: Mapping[str, Any], weights: Mapping[str, float], count: int, budgets: int) -> list[rungs.Rung]:
    """The rungs below a target. target: its shape, tokens, tokens per step and warm-up; weights: by name of a shape.

    Each rung sees as many tokens per weight as the target, and halves of that. Raises BadParams.
    """
    per_weight = target["tokens"] / weights["target"]
    plan = list[rungs.Rung]()
    for shape in rungs.shapes(target["model"], count):
        name = rungs.name(shape)
        steps = rungs.budgets(per_weight * weights[name], target["tokens_per_step"], budgets)
        plan.append(rungs.Rung(name, shape, steps, rungs.warmup(target["warmup_steps"], steps)))
    return plan


def shapes(model: Mapping[str, int], count: int) -> dict[str, dict[str, int]]:
    """The shapes of the rungs below a target by their names. Raises BadParams."""
    return {rungs.name(shape): shape for shape in rungs.shapes(model, count)}


def last_stable_step(steps: int, warmup: int) -> int:
    """The number of steps of a wsd run of `steps` steps before its learning rate decays."""
    return rungs.last_stable_step(steps, warmup)


def register(
    runs: Sequence[Run], stable: Sequence[StablePoint], weights: float, tokens: float, max_own_error: float, data: Path
) -> dict[str, Any]:
    """Write the forecast of a target into data/ladder/forecast.json; return it with the sha256 of that file.

    The losses are bits per byte of the validation documents; stable: those before the learning rates decayed, for the
    band of the curve. Raises BadInput if the ladder misses its own top rung.
    """
    result = forecast.predict(runs, weights, tokens, max_own_error)
    law = fitting.fit(runs)
    best_weights, best_tokens = forecast.best_allocation(law, forecast.compute(weights, tokens))
    cost = sum(forecast.compute(run.weights, run.tokens) for run in runs) / forecast.compute(weights, tokens)
    result |= {"unit": "bits per byte", "best_weights": best_weights, "best_tokens": best_tokens, "cost_share": cost}
    result["rungs"] = [run._asdict() for run in runs]
    if stable:
        result["curve"] = band.excess(stable, law)
    (data / FILE).parent.mkdir(parents=True, exist_ok=True)
    write_json(data / FILE, result)
    return result | {"sha256": sha256(data / FILE)}


def write_report(result: Mapping[str, Any], data: Path) -> None:
    """Write data/reports/ladder.json from a registered forecast, for MLflow."""
    low, high = result["interval_95"]
    report = Report(STAGE, counts={"runs": int(result["runs"])})
    report.scores = {
        "bits_per_byte": Score(result["loss"], low, high, int(result["runs"])),
        "own_error": result["own_error"],
        "cost_share": result["cost_share"],
    }
    report.summary = "; ".join(lines(result))
    report.tables = {"rungs": list(result["rungs"])}
    report.write(data / "reports")


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """The forecast in words, the leave-largest-out error first."""
    yield f"leave-largest-out error {result['own_error']:.2%} ({result['runs']} runs)"
    (low, high), (low_80, high_80) = result["interval_95"], result["interval_80"]
    yield (
        f"forecast {result['loss']:.4f} {result['unit']}, 80 % [{low_80:.4f}, {high_80:.4f}], "
        f"95 % [{low:.4f}, {high:.4f}] for {result['weights']:,.0f} weights and {result['tokens']:,.0f} tokens"
    )
    yield (
        f"best for the same FLOPs: {result['best_weights']:,.0f} weights, {result['best_tokens']:,.0f} tokens; "
        f"the ladder cost {result['cost_share']:.1%} of the target"
    )


def forecast_of(data: Path, weights: float, tokens: float) -> dict[str, Any] | None:
    """The registered forecast if it is the one of a run with so many weights and tokens; None otherwise."""
    if not (data / FILE).is_file():
        return None
    result: dict[str, Any] = read_json(data / FILE)
    return result if _is_about(result, weights, tokens) else None


def alarm(result: dict[str, Any], tokens: float, bits_per_byte: float) -> str | None:
    """A sentence if the curve of a run has left the band of its forecast; None otherwise."""
    return band.alarm(result, tokens, bits_per_byte)


def _is_about(result: Mapping[str, Any], weights: float, tokens: float) -> bool:
    ratios = float(result["weights"]) / weights, float(result["tokens"]) / tokens
    return all(abs(ratio - 1) <= SAME for ratio in ratios)


def compare(data: Path, bits_per_byte: float, weights: float, tokens: float) -> str:
    """The registered forecast beside a result. Raises BadInput if there is no forecast, or for another run."""
    if not (data / FILE).is_file():
        raise BadInput(f"there is no {data / FILE}. Register a forecast first: python -m flows.ladder --target ...")
    result = read_json(data / FILE)
    if not _is_about(result, weights, tokens):
        raise BadInput(
            f"{data / FILE} is the forecast of {result['weights']:,.0f} weights and {result['tokens']:,.0f} tokens, "
            f"but the run has {weights:,.0f} weights and {tokens:,.0f} tokens. Register a forecast for this run."
        )
    low, high = result["interval_95"]
    place = "inside" if low <= bits_per_byte <= high else "OUTSIDE"
    return (
        f"forecast {result['loss']:.4f} [{low:.4f}, {high:.4f}], result {bits_per_byte:.4f} {result['unit']}: "
        f"{result['loss'] / bits_per_byte - 1:+.2%}, {place} the 95 % interval (sha256 {sha256(data / FILE)[:12]})"
    )
