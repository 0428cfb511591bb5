"""Drop documents in a language nobody asked for, and those whose language is too uncertain.

Languages are found by script, stop words and CLD2 (tasks/curation/signals/language.py).
"""

import numpy as np
from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, Verdict, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """`allowed`: ISO 639-1 codes; "und" lets in what no detector knows."""

    allowed: tuple[str, ...] = ("en", "zh")
    min_confidence: float = Field(0.65, ge=0, le=1)  # FineWeb's bound, there on fastText's probability


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Another language first, then a doubtful one; the value of both is the confidence."""
    other = ~np.isin(signals.language, params.allowed)
    return {
        "other_language": Verdict(other, signals.language_confidence, "language_confidence"),
        "uncertain_language": below(signals, "language_confidence", params.min_confidence),
    }
