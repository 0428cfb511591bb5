"""Drop documents that repeat their lines, paragraphs or word n-grams.

Gopher, arXiv:2112.11446, table A1. The values are computed as in datatrove's GopherRepetitionFilter.
"""

from typing import Any

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above


def _bound(default: float, subject: str) -> Any:
    return Field(default, ge=0, description=f"Greatest share of {subject}.")


def _top(default: float, n: int) -> Any:
    return _bound(default, f"characters in the most frequent {n}-gram of words, all its occurrences together")


def _duplicate(default: float, n: int) -> Any:
    return _bound(default, f"characters in {n}-grams of words that repeat an earlier one")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Bounds, by default those that were published for English; null means no bound."""

    max_duplicate_paragraph_ratio: float | None = _bound(0.3, "paragraphs that repeat an earlier one")
    max_duplicate_paragraph_char_ratio: float | None = _bound(0.2, "characters in repeated paragraphs")
    max_duplicate_line_ratio: float | None = _bound(0.3, "lines that repeat an earlier one")
    max_duplicate_line_char_ratio: float | None = _bound(0.2, "characters in repeated lines")
    max_top_2_gram_ratio: float | None = _top(0.2, 2)
    max_top_3_gram_ratio: float | None = _top(0.18, 3)
    max_top_4_gram_ratio: float | None = _top(0.16, 4)
    max_duplicate_5_gram_ratio: float | None = _duplicate(0.15, 5)
    max_duplicate_6_gram_ratio: float | None = _duplicate(0.14, 6)
    max_duplicate_7_gram_ratio: float | None = _duplicate(0.13, 7)
    max_duplicate_8_gram_ratio: float | None = _duplicate(0.12, 8)
    max_duplicate_9_gram_ratio: float | None = _duplicate(0.11, 9)
    max_duplicate_10_gram_ratio: float | None = _duplicate(0.10, 10)


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return one rule for each bound, from paragraphs to n-grams; each reason is named after its signal."""
    # The name of a param is "max_" and the name of its signal.
    bounds = {name.removeprefix("max_"): getattr(params, name) for name in Params.model_fields}
    return {signal.removesuffix("_ratio"): above(signals, signal, bound) for signal, bound in bounds.items()}
