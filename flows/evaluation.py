"""Evaluation: models and held-out data -> numbers with intervals, plots, one page, and gates."""

from pathlib import Path

from prefect import flow

from tasks.evaluation import tasks
from tasks.reports import Timings


@flow(name="evaluation")
def evaluation(params: tasks.Params, data: Path = Path("data")) -> None:
    """Every metric of params on the split `test`; then the report; then the gates."""
    timings = Timings("evaluation")
    evidence = tasks.gather(params, data)
    findings = [tasks.measure(name, dials, evidence, timings) for name, dials in params.chosen()]
    failed = tasks.report(findings, params, data, timings)
    tasks.enforce(failed, data)


if __name__ == "__main__":
    from flows.runtime import command

    command.main(evaluation)
