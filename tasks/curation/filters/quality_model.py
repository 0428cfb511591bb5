"""Drop documents that a trained quality classifier rejects; its positive label means good text."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import Float64Array
from tasks.curation.classifier import classifier
from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, Verdict


class Params(BaseModel, frozen=True, extra="forbid"):
    """The classifier and its threshold."""

    file: Path | None = Field(
        None, description="File of a classifier trained with `python -m flows.classifier`; null keeps every document."
    )
    min_probability: float = Field(
        0.5, ge=0, le=1, description="Least probability of good text with which a document is kept."
    )


def needs_texts(params: Params) -> bool:
    """Return whether there is a classifier, which reads the texts."""
    return params.file is not None


def measure_texts(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """Return the probability that each text is good: float64 [documents]."""
    assert params.file is not None
    return {"probability": classifier.load(params.file).probabilities(texts)}


def drop_reasons(
    signals: Signals, params: Params, text_measurements: Mapping[str, Float64Array] | None = None
) -> Reasons:
    """Return the rule on the probability; without a classifier, it drops nothing."""
    probability = text_measurements["probability"] if text_measurements else np.ones(len(signals))
    return {"low_quality": Verdict(probability < params.min_probability, probability, bound=params.min_probability)}
