"""What a person sees at the end: seconds and memory of each stage, the key scores, and where to look next."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.runtime.environment import RUN
from tasks.files import read_json, write_json

SECONDS = RUN / "seconds"
KEY_SCORES = (
    "perplexity", "bigram_perplexity", "unigram_perplexity", "exact_match", "gold", "kl", "reward_accuracy",
)  # fmt: skip


def record(stage: str, seconds: float, peak_bytes: int) -> None:
    """Note how long a stage took, and say so."""
    print(f"{stage}: {seconds:.1f} s, {peak_bytes / 1e9:.2f} GB", file=sys.stderr, flush=True)
    write_json(SECONDS / f"{stage}.json", {"seconds": seconds, "peak_bytes": peak_bytes})


def show(stages: Iterable[str], ran: Mapping[str, str], whole: float, data: Path = Path("data")) -> None:
    """Print the table of `stages`; `ran` says of some how they came to be up to date ("run", "restored")."""
    print(f"\n{'stage':<14}{'seconds':>9}{'peak GB':>9}   told")
    for stage in stages:
        path, report = SECONDS / f"{stage}.json", data / "reports" / f"{stage}.json"
        took = read_json(path) if path.is_file() and ran.get(stage) != "restored" else {}
        state = "" if ran.get(stage) == "run" else ran.get(stage, "up to date")
        seconds, peak = took.get("seconds"), took.get("peak_bytes", 0)
        told = _brief(read_json(report)) if report.is_file() else ""
        print(
            f"{stage:<14}{'' if seconds is None else format(seconds, '9.1f'):>9}{peak / 1e9:>9.2f}   "
            f"{' · '.join(part for part in (state, told) if part)}"
        )
    print(f"{'whole':<14}{whole:>9.1f}\n")
    _show_scores(data / "reports" / "evaluation.json")


def show_places(data: Path = Path("data")) -> None:
    """Where to look next."""
    page = data / "reports" / "evaluation" / "report.html"
    print(f"report     {page if page.is_file() else data / 'reports'}")
    print("talk       make chat")
    print(f"MLflow     {os.environ['MLFLOW_TRACKING_URI']}   (make up: its page, and Prefect's)")
    print(f"Prefect    {os.environ.get('PREFECT_API_URL', RUN / 'prefect.db')}")


def _show_scores(path: Path) -> None:
    if not path.is_file():
        return
    body = read_json(path)
    for name in KEY_SCORES:
        if isinstance(body.get(name), dict):
            print(f"{name:<21}{_score(body[name])}")
    for note in body.get("notes", []):
        print(f"  ! {note}")
    print()


def _score(score: Any) -> str:
    if not isinstance(score, dict):
        return _number(score)
    if "value" in score:
        interval = f" [{_number(score['low'])}, {_number(score['high'])}]" if "low" in score else ""
        return f"{_number(score['value'])}{interval}" + (f" n={score['n']}" if "n" in score else "")
    return "   ".join(f"{model} {_score(part)}" for model, part in score.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def _brief(report: Mapping[str, Any]) -> str:
    counts = [f"{name} {value:,}" for name, value in report.get("counts", {}).items()]
    scores = [f"{name} {_score(value)}" for name, value in report.items() if isinstance(value, int | float)]
    return ", ".join([*counts, *scores][:5])
