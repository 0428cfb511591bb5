"""Drop documents that repeat their lines, paragraphs or word n-grams.

Gopher, arXiv:2112.11446, table A1. With `count_single`, the values are computed as in datatrove's
GopherRepetitionFilter. Without it, what occurs once is not a repetition, whatever share of a short text it makes up.
"""

from typing import Any

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above

# Published signal -> the same without what occurs once. A duplicate of 5 or more words occurs twice by definition.
_NOT_SINGLE = {
    "duplicate_line_ratio": "duplicate_filled_line_ratio",
    "duplicate_line_char_ratio": "duplicate_filled_line_char_ratio",
    **{f"top_{n}_gram_ratio": f"repeated_{n}_gram_ratio" for n in range(2, 5)},
}


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

    count_single: bool = Field(
        False,
        description="Compute the ratios as published: a top n-gram counts even if it occurs once, and the empty text "
        "before the first and after the last newline counts as a line. By default, an n-gram counts if it occurs at "
        "least twice, and blank lines are no lines.",
    )


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return one rule for each bound, from paragraphs to n-grams; each reason is named after its published signal."""
    reasons = {}
    for name in Params.model_fields:
        if not name.startswith("max_"):
            continue
        published = name.removeprefix("max_")
        signal = published if params.count_single else _NOT_SINGLE.get(published, published)
        reasons[published.removesuffix("_ratio")] = above(signals, signal, getattr(params, name))
    return reasons
