"""Drop documents that a trained classifier judges to be bad; its label `true` means good text."""

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
    """`file`: a trained classifier; None keeps everything."""

    file: Path | None = None
    min_probability: float = Field(0.5, ge=0, le=1)


def needs_texts(params: Params) -> bool:
    """Whether there is a classifier to ask."""
    return params.file is not None


def look(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """The probability of each text to be good."""
    assert params.file is not None
    return {"probability": classifier.load_cached(params.file).probabilities(texts)}


def drop_reasons(signals: Signals, params: Params, looked: Mapping[str, Float64Array] | None = None) -> Reasons:
    """What is less probable than asked; without a classifier, nothing."""
    probability = looked["probability"] if looked else np.ones(len(signals))
    return {"low_quality": Verdict(probability < params.min_probability, probability, bound=params.min_probability)}
