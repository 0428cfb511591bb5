"""Block answers by a text classifier, such as one for toxicity (docs/classifier.md says how to train one)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class ClassifierFilter:
    """Blocks texts whose probability of the label of `classifier` is at least `threshold`."""

    name: str
    classifier: Any
    threshold: float

    def label(self, text: str) -> str | None:
        """The name of the classifier if it blocks a text."""
        (probability,) = self.classifier.probabilities(pa.array([text], pa.large_string()))
        return self.name if probability >= self.threshold else None


def load(file: Path, threshold: float) -> ClassifierFilter:
    """Load a classifier that `python -m flows.classifier` has written. Raises BadInput."""
    from tasks.curation import tasks

    return ClassifierFilter(file.stem, tasks.load_classifier(file), threshold)
