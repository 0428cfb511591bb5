"""What the pipeline prints at its end: seconds and memory of each stage, the key scores, and where to look next."""

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from flows.runtime import mlflow_names
from flows.runtime.environment import RUN
from tasks import reports
from tasks.addresses import redact
from tasks.files import read_json, write_json
from tasks.pages import markdown_table

SECONDS = RUN / "seconds"
FINAL_REPORT = Path("data", "promotion", "report.html")  # with the verdict of promotion
PIPELINE_SECONDS = RUN / "pipeline_seconds.json"  # of the last pipeline that ran a stage
MAX_BRIEF_VALUES = 5  # counts and scores in the row of a stage that states no highlights
LOW_PEAK_SHARE = 0.3  # of the peak of matrix products; below it, the table names what takes the time
# Parts of the steps of training in Timings, and what they are called.
STEP_PARTS = {
    "batches": "data and rollouts", "passes": "forward and backward passes", "optimizer": "the optimizer",
    "evaluation": "evaluation",
}  # fmt: skip
MAX_WARNINGS = 10  # of a stage below the table
KEY_SCORES = (
    "perplexity", "bigram_perplexity", "unigram_perplexity", "exact_match", "gold", "kl", "reward_accuracy",
)  # fmt: skip


def record(stage: str, seconds: float, work_seconds: float, peak_bytes: int) -> None:
    """Print and store how long a stage took, how long its function ran, and the most memory that its process used."""
    print(f"{stage}: {seconds:.1f} s, {peak_bytes / 1e9:.2f} GB", file=sys.stderr, flush=True)
    write_json(SECONDS / f"{stage}.json", {"seconds": seconds, "work_seconds": work_seconds, "peak_bytes": peak_bytes})


def record_pipeline(states: Mapping[str, str]) -> None:
    """Store how long this process has run, and which part of it is the work of the stages that it has run."""
    ran = [stage for stage, state in states.items() if state == "run"]
    work = sum(read_json(SECONDS / f"{stage}.json").get("work_seconds", 0.0) for stage in ran)
    seconds = time.time() - psutil.Process().create_time()
    write_json(PIPELINE_SECONDS, {"seconds": seconds, "work_seconds": work, "stages": ran})


def card(stage: str, data: Path = Path("data")) -> str:
    """Return what the page of a registered model says: the scores and counts of its stage, its summary and warnings."""
    path = data / "reports" / f"{stage}.json"
    row = _numbers(reports.read(path)) if path.is_file() else {}
    lines = [row.get("summary", ""), ", ".join(_brief_values(row)) if row else ""]
    lines += [f"- {note}" for note in row.get("notes", [])[:MAX_WARNINGS]]
    return "\n\n".join([f"The model of the stage {stage}: data/models/{stage}.", *filter(None, lines)])


def markdown(states: Mapping[str, str], data: Path = Path("data")) -> str:
    """Return a table of the stages whose results changed, for Prefect's page."""
    rows = [(stage, state, ", ".join(_values_of(stage, data))) for stage, state in states.items()]
    return "\n".join(markdown_table(("stage", "state", "results"), rows))


def _values_of(stage: str, data: Path) -> list[str]:
    path = data / "reports" / f"{stage}.json"
    return list(_brief_values(_numbers(reports.read(path)))) if path.is_file() else []


def show_summary(stage: str, data: Path = Path("data")) -> None:
    """Print the line and the warnings with which the report of a stage describes what was kept."""
    path = data / "reports" / f"{stage}.json"
    report = reports.read(path) if path.is_file() else {}
    if report.get("summary"):
        print(report["summary"], file=sys.stderr)
    for note in report.get("notes", [])[:MAX_WARNINGS]:
        print(f"  ! {note}", file=sys.stderr)
    sys.stderr.flush()


def show(
    stages: Iterable[str], states: Mapping[str, str], seconds: float, as_json: bool, data: Path = Path("data")
) -> None:
    """Print the results of `stages` as a table or as JSON.

    `states` maps the stages whose results changed to "run" or "restored"; `seconds` is the time of the whole command.
    """
    results = collect(stages, states, seconds, data)
    if as_json:
        print(json.dumps(results, ensure_ascii=False, indent=1))
    else:
        _print_table(results)
        _print_scores(results)


def ran_since(start_time: float, stages: Iterable[str]) -> dict[str, str]:
    """Return the states of those of `stages` that ran to their end after a time in seconds since 1970."""
    paths = {stage: SECONDS / f"{stage}.json" for stage in stages}
    return {stage: "run" for stage, path in paths.items() if path.is_file() and path.stat().st_mtime >= start_time}


def collect(stages: Iterable[str], states: Mapping[str, str], seconds: float, data: Path) -> dict[str, Any]:
    """Return the results of `stages`: state, seconds, peak memory, counts and scores of each, and the key scores."""
    rows = {}
    for stage in stages:
        path, report = SECONDS / f"{stage}.json", data / "reports" / f"{stage}.json"
        usage = read_json(path) if path.is_file() and states.get(stage) != "restored" else {}
        timings = reports.TIMINGS / f"{stage}.json"
        speed = describe_low_speed(read_json(timings)) if usage and timings.is_file() else ""
        rows[stage] = {
            **({"speed": speed} if speed else {}),
            "state": states.get(stage, "up to date"),
            "seconds": usage.get("seconds"),
            "work_seconds": usage.get("work_seconds"),
            "peak_bytes": usage.get("peak_bytes"),
            **(_numbers(reports.read(report)) if report.is_file() else {}),
        }
    path = data / "reports" / "evaluation.json"
    evaluation = reports.read(path) if path.is_file() else {}
    scores = {name: evaluation[name] for name in KEY_SCORES if isinstance(evaluation.get(name), dict)}
    for name, own in evaluation.get("benchmarks", {}).items():
        if main := reports.main_score(own):
            scores[f"{name}.{main}"] = own[main]
    return {"seconds": seconds, "stages": rows, "scores": scores, "notes": evaluation.get("notes", [])}


def describe_low_speed(timings: Mapping[str, float]) -> str:
    """Return what takes the time of a stage that reaches little of the peak of the processor; "" for other stages."""
    share = timings.get("peak_share", 1.0)
    if share >= LOW_PEAK_SHARE:
        return ""
    seconds = {text: timings.get(f"steps.{name}", 0.0) for name, text in STEP_PARTS.items()}
    total = sum(seconds.values())
    parts = sorted(((part / total, text) for text, part in seconds.items() if part >= 0.01 * total > 0), reverse=True)
    text = f"{share:.0%} of the processor's peak of matrix products"
    return text + ("; the time: " + ", ".join(f"{text} {part:.0%}" for part, text in parts) if parts else "")


def mlflow_page() -> str:
    """Return the address of MLflow's pages, which open in their training view, or of its database."""
    address = redact(os.environ["MLFLOW_TRACKING_URI"])
    if address.startswith("http"):
        return mlflow_names.page(address, os.environ.get("MLFLOW_EXPERIMENT_NAME", mlflow_names.EXPERIMENT))
    return f"{address}   (`make up` starts its page and Prefect's)"


def show_places(data: Path = Path("data")) -> None:
    """Print where the report, the chat and the pages of MLflow and Prefect are."""
    pages = [path for path in (FINAL_REPORT, data / "reports" / "evaluation" / "report.html") if path.is_file()]
    # After a gate that failed, the page of evaluation is newer than that of the last decision.
    newest = max(pages, key=lambda path: path.stat().st_mtime, default=data / "reports")
    print(f"report     {newest}")
    print("chat       make chat")
    print(f"MLflow     {mlflow_page()}")
    print(f"Prefect    {redact(os.environ.get('PREFECT_API_URL', str(RUN / 'prefect.db')))}")


def _numbers(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the counts of a report, its single numbers, its summary and warnings, or why its stage was left out."""
    scores = {name: value for name, value in report.items() if isinstance(value, int | float)}
    counts = dict(report.get("counts", {}))
    texts = {key: report[key] for key in ("summary", "highlights", "notes") if key in report}
    if counts.get("left_out"):
        texts = {"left_out": " ".join(report.get("notes", []))}
    return {"counts": counts, "scores": scores, **texts}


def _print_table(results: Mapping[str, Any]) -> None:
    print(f"\n{'stage':<14}{'seconds':>9}{'peak GB':>9}   results")
    for stage, row in results["stages"].items():
        brief = row.get("left_out") or ", ".join(_brief_values(row))
        state = "" if row["state"] == "run" else row["state"]
        seconds = "" if row["seconds"] is None else format(row["seconds"], "9.1f")
        text = " · ".join(part for part in (state, brief) if part)
        print(f"{stage:<14}{seconds:>9}{(row['peak_bytes'] or 0) / 1e9:>9.2f}   {text}")
    print(f"{'total':<14}{results['seconds']:>9.1f}\n")
    slow = [f"{stage}: {row['speed']}" for stage, row in results["stages"].items() if row.get("speed")]
    print("\n".join([*slow, ""]) if slow else "", end="")


def _brief_values(row: Mapping[str, Any]) -> list[str]:
    """Return the values that the report of a stage names as important, or else its first ones."""
    counts = {name: f"{value:,}" for name, value in row.get("counts", {}).items()}
    values = counts | {name: _format_score(value) for name, value in row.get("scores", {}).items()}
    highlights = [name for name in row.get("highlights", []) if values.get(name, "0") != "0"]
    return [f"{name} {values[name]}" for name in highlights or list(values)[:MAX_BRIEF_VALUES]]


def _print_scores(results: Mapping[str, Any]) -> None:
    for name, score in results["scores"].items():
        print(f"{name:<20} {_format_score(score)}")
    notes = [f"{stage}: {note}" for stage, row in results["stages"].items() for note in row.get("notes", [])]
    for note in notes:
        print(f"  ! {note}")
    if results["scores"] or notes:
        print()


def _format_score(score: Any) -> str:
    """Format a number, {value, low, high, n}, or such scores by model."""
    if not isinstance(score, dict):
        return _format_number(score)
    if "value" in score:
        interval = f" [{_format_number(score['low'])}, {_format_number(score['high'])}]" if "low" in score else ""
        return f"{_format_number(score['value'])}{interval}" + (f" n={score['n']}" if "n" in score else "")
    return "   ".join(f"{model} {_format_score(part)}" for model, part in score.items())


def _format_number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
