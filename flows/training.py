"""Training: tokens -> models. One flow runs every training stage: pretrain, sft, reward, dpo and ppo."""

from pathlib import Path

from prefect import flow
from pydantic import BaseModel, SerializeAsAny

from tasks.reports import Timings
from tasks.training import tasks


@flow(name="training")
def training(stage: str, params: SerializeAsAny[BaseModel], data: Path, checkpoints: Path) -> None:
    """Train the model of one stage, continuing from its checkpoints if there are any, then report."""
    timings = Timings(stage)
    report = tasks.train(stage, params, data, checkpoints, timings)
    tasks.write_report(report, params, data, timings)


if __name__ == "__main__":
    from flows.runtime import command

    command.main(training)
