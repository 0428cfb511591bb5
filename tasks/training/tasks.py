"""Training as Prefect tasks: one stage by its name, then its report."""

import importlib
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from tasks import kept_shares
from tasks.kept_shares import KeptShareParams
from tasks.reports import Report, Timings

STAGES = "tasks.training.stages"


@task(cache_policy=NO_CACHE, task_run_name="train-{stage}")
def train(stage: str, params: BaseModel, data: Path, checkpoints: Path, timings: Timings) -> Report:
    """Run the stage that tasks/training/stages/<stage>.py holds; its model is then in data/models/<stage>.

    A stage is left out if there is no data of the kind that it reads, and the report says so.
    """
    from tasks.training.loop import origins, rates, stage_files
    from tasks.training.parallel import launch

    kind = launch.kind(params)
    if reason := stage_files.left_out(kind, params, data):
        print(f"{stage} is left out: {reason}.", file=sys.stderr, flush=True)
        return stage_files.leave_out(stage, kind, params, data, reason)
    params, notes = rates.resolve(params, kind, data)
    params, context_notes = origins.fit_context(params, kind, data)
    report = launch.train(stage, params, data, checkpoints, timings)
    report.notes += notes + context_notes
    timings.values["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return report


def continue_longer(params: Any, data: Path, shorter: Path, checkpoints: Path, last_step: int) -> int | None:
    """Let a run of pretrain continue from the checkpoint of a shorter run that is equal to it until `last_step`.

    shorter, checkpoints: the checkpoint folders of both. Returns the step to continue from; None means the beginning.
    """
    from tasks.training.loop import checkpoint, origins, rates, training_loop

    params, _ = rates.resolve(params, "pretrain", data)
    params, _ = origins.fit_context(params, "pretrain", data)
    return checkpoint.adopt(shorter, checkpoints, training_loop.identity(params), last_step)


@task(cache_policy=NO_CACHE)
def write_report(report: Report, params: BaseModel, data: Path, timings: Timings) -> None:
    """Write the report, then the timings; the report comes last in a stage, so that it implies success.

    Raises NothingLeft if params are strict and the stage uses too little of its data, or sees it too often; GateFailed
    if it has made a trained base worse.
    """
    from tasks.training.loop import rates

    report.write(data / "reports")
    timings.write()
    if isinstance(params, KeptShareParams):
        kept_shares.check_strict(report.stage, report.warnings, params)
    rates.check_gain(report, params)


def estimate(params: BaseModel, vocab_size: int, options: Mapping[str, Any], data: Path) -> Iterator[str]:
    """Return the lines of an estimate for the Params of pretrain; `options`: fields of forecast.Options.

    A `base` that is a stage is read from `data`/models. Raises BadParams, BadModel.
    """
    forecast = _forecast()
    lines: Iterator[str] = forecast.lines(forecast.find_base(params, data), vocab_size, forecast.Options(**options))
    return lines


def estimate_numbers(params: BaseModel, vocab_size: int, options: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """Return the same estimate as values of JSON. Raises BadParams, BadModel."""
    forecast = _forecast()
    params = forecast.find_base(params, data)
    numbers: dict[str, Any] = forecast.numbers(params, vocab_size, forecast.Options(**options))
    return numbers


def num_weights(params: Any, vocab_size: int) -> int:
    """Return the number of all weights of a new model with the Params of pretrain."""
    return int(_forecast().count_shape(params.model, vocab_size).total)


def _forecast() -> Any:
    """Import the module by its name, so that dvc.yaml need not list it: its changes make no stage out of date."""
    return importlib.import_module("tasks.training.estimate.forecast")
