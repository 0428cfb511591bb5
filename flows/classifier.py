"""Classifier: from labeled text to data/classifiers, for the filters `spam` and `quality_model`.

This stage is optional: docs/classifier.md shows what to add to params.yaml and dvc.yaml.
"""

from pathlib import Path

from prefect import flow

from tasks.curation import tasks
from tasks.reports import Report, Timings


@flow(name="classifier")
def classifier(params: tasks.Classifiers, data: Path = Path("data")) -> None:
    """Train each classifier on its labeled text, cross-validate and calibrate it, and report."""
    timings, report = Timings("classifier"), Report("classifier")
    for name, classifier_params in params.models.items():
        tasks.train_classifier(name, classifier_params, data, report, timings)
    report.write(data / "reports")
    timings.write()


if __name__ == "__main__":
    from flows.runtime import command

    command.main(classifier)
