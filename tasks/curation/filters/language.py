"""Drop documents in a language that is not allowed, and documents whose language is uncertain.

The language is identified by script, stop words and CLD2 (tasks/curation/signals/language.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, Verdict, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """The languages to keep."""

    allowed: tuple[str, ...] = Field(
        ("en", "zh"),
        description="Languages to keep, as ISO 639-1 codes; by default the keys of `languages`. "
        "`und` keeps documents whose language cannot be identified.",
    )
    # The value is FineWeb's, who compare it with fastText's probability.
    mixed: Literal["both", "main"] = Field(
        "both",
        description="Which filters judge a text that is Chinese and English in similar parts, if both are allowed: "
        "those of `both` languages, so that the stricter bound decides, or those of its `main` language.",
    )
    min_confidence: float = Field(
        0.65, ge=0, le=1, description="Least confidence of the identified language, from 0 to 1 (FineWeb: 0.65)."
    )


def default_params(languages: Sequence[str]) -> Mapping[str, Any]:
    """Allow the languages that have params."""
    return {"allowed": languages}


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return the rules on the language and on its confidence; the deciding value of both is the confidence."""
    is_other = ~np.isin(signals.language, params.allowed)
    uncertain = below(signals, "language_confidence", params.min_confidence)
    # The main language of a text in two languages is uncertain by nature. It matters only if one is not allowed.
    if {"en", "zh"} <= set(params.allowed):
        uncertain = replace(uncertain, dropped=uncertain.dropped & (signals.second_language_share == 0))
    return {
        "other_language": Verdict(is_other, signals.language_confidence, "language_confidence"),
        "uncertain_language": uncertain,
    }
