"""Training: tokens -> models. One flow runs every training stage: pretrain, sft, reward, dpo and ppo."""

import importlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefect import flow
from pydantic import BaseModel, SerializeAsAny

from tasks.reports import Timings
from tasks.training import tasks


@flow(name="training")
def training(stage: str, params: SerializeAsAny[BaseModel], data: Path, checkpoints: Path) -> None:
    """Train the model of one stage, continuing from its checkpoints if there are any, then report."""
    timings = Timings(stage)
    ladder: Any = None
    if stage == "pretrain" and (data / "ladder/forecast.json").is_file():
        # By its name, so that dvc.yaml need not list it: a forecast changes no result.
        ladder = importlib.import_module("flows.ladder")
    with ladder.watching(params, checkpoints) if ladder else nullcontext():
        report = tasks.train(stage, params, data, checkpoints, timings)
    tasks.write_report(report, params, data, timings)
    if ladder:
        ladder.print_comparison()


if __name__ == "__main__":
    from flows.runtime import command

    command.main(training)
