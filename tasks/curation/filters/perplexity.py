"""Drop documents that an n-gram language model of their language finds improbable, as in CCNet (arXiv:1911.00359).

`python -m flows.language_model` trains the model of a language. Two percentiles of the perplexity of held-out text
divide documents into head, middle and tail; the report counts them by language.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import Float64Array
from tasks.curation.language_model import ngram_model
from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, Verdict


class Params(BaseModel, frozen=True, extra="forbid"):
    """The language model and the greatest perplexity that is kept."""

    file: Path | None = Field(
        None,
        description="File of a model trained with `python -m flows.language_model`; null keeps every document of the "
        "language.",
    )
    keep: Literal["head", "middle", "tail"] = Field(
        "middle",
        description="The worst part that is kept: `head` keeps the head, `middle` also the middle, and `tail` keeps "
        "all and only counts.",
    )
    max_perplexity: float | None = Field(
        None, gt=0, description="Greatest perplexity with which a document is kept, instead of the bound by `keep`."
    )


def needs_texts(params: Params) -> bool:
    """Return whether there is a model, which reads the texts."""
    return params.file is not None


def measure_texts(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """Return the perplexity of each text: float64 [documents], NaN for a text without a word."""
    assert params.file is not None
    return {"perplexity": ngram_model.load_cached(params.file).perplexities(texts)}


def drop_reasons(
    signals: Signals, params: Params, text_measurements: Mapping[str, Float64Array] | None = None
) -> Reasons:
    """Return the rule on the perplexity; without a model, it drops nothing. A text without a word is kept."""
    if params.file is None or text_measurements is None:
        return {}
    perplexity = text_measurements["perplexity"]
    model_bounds = ngram_model.load_cached(params.file).bounds
    bound = params.max_perplexity
    if bound is None and params.keep != "tail":
        bound = model_bounds[ngram_model.PARTS.index(params.keep)]
    dropped = perplexity > (np.inf if bound is None else bound)
    parts = ngram_model.parts_of(perplexity, model_bounds)
    return {"too_high": Verdict(dropped, perplexity, bound=bound, parts=parts)}
