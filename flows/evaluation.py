"""Evaluation: measure the models on the test split; write scores, plots and report page; then check the gates."""

from pathlib import Path

from prefect import flow

from tasks import pipeline_stages
from tasks.evaluation import tasks
from tasks.progress import Progress
from tasks.reports import Timings


@flow(name="evaluation")
def evaluation(params: tasks.Params, data: Path = Path("data")) -> None:
    """Measure every metric of `params`, write the report, check the gates."""
    tasks.enforce(measure_all(params, data, Timings("evaluation")), data)


def measure_all(params: tasks.Params, data: Path, timings: Timings) -> list[str]:
    """Measure every metric of `params` and write the report. Returns a sentence for each gate that failed."""
    stages = pipeline_stages.read_stages()
    benchmarks, champion = tasks.load_benchmarks(params), tasks.read_champion(params)
    inputs = tasks.open_inputs(params, data, stages)
    results = []
    metrics = list(params.active_metrics())
    with Progress("evaluation", len(metrics) + len(benchmarks), "metrics") as progress:
        for name, metric_params in metrics:
            results.append(tasks.measure(name, metric_params, inputs, timings))
            progress.advance(note=f"measured {name}")
        for name, loaded in benchmarks.items():
            results.append(tasks.measure_benchmark(name, params, inputs, loaded, timings))
            progress.advance(note=f"measured {name}")
    return tasks.write_report(results, inputs, params, data, stages, timings, champion)


if __name__ == "__main__":
    from flows.runtime import command

    command.main(evaluation)
