"""Training as Prefect tasks: one stage by its name, then its report."""

import importlib
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks.reports import Report, Timings

STAGES = "tasks.training.stages"


@task(cache_policy=NO_CACHE, task_run_name="train-{stage}")
def train(stage: str, params: BaseModel, data: Path, checkpoints: Path, timings: Timings) -> Report:
    """Run the stage that tasks/training/stages/<stage>.py holds; its model is then in data/models/<stage>."""
    from tasks.training.parallel import launch

    report = launch.train(stage, params, data, checkpoints, timings)
    timings.values["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return report


@task(cache_policy=NO_CACHE)
def write_report(report: Report, data: Path, timings: Timings) -> None:
    """What there is to say, last of all."""
    report.write(data / "reports")
    timings.write()


def estimate(params: BaseModel, vocab_size: int, terms: Mapping[str, Any]) -> Iterator[str]:
    """Lines about what a pretrain section will take; `terms`: the fields of forecast.Terms. Raises BadParams."""
    forecast = importlib.import_module(
        "tasks.training.estimate.forecast"
    )  # by its name: no stage is stale when it changes
    lines: Iterator[str] = forecast.lines(params, vocab_size, forecast.Terms(**terms))
    return lines
