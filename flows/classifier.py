"""Classifier: the user's labeled text -> data/classifiers, for the filters `spam` and `quality_model`.

Not in the journey until params.yaml and dvc.yaml have its paragraphs (docs/classifier.md).
"""

from pathlib import Path

from prefect import flow

from tasks.curation import tasks
from tasks.reports import Report, Timings


@flow(name="classifier")
def classifier(params: tasks.Teaching, data: Path = Path("data")) -> None:
    """Train each classifier on its labeled text, cross-validate and calibrate it, report."""
    timings, report = Timings("classifier"), Report("classifier")
    for name, lesson in params.models.items():
        tasks.teach(name, lesson, data, report, timings)
    report.write(data / "reports")
    timings.write()


if __name__ == "__main__":
    from flows.runtime import command

    command.main(classifier)
