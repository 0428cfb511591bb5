"""Drop pages that are lists, menus or boilerplate: few line ends, short or repeated lines, many newlines.

FineWeb, arXiv:2406.17557, section 3.6. The values are computed as in datatrove's FineWebQualityFilter.
"""

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """Bounds, by default those that were published for English; null means no bound."""

    min_terminal_line_ratio: float | None = Field(
        0.12, ge=0, le=1, description="Least share of lines that end with a mark that ends a sentence."
    )
    max_short_line_ratio: float | None = Field(
        0.67, ge=0, le=1, description="Greatest share of lines with at most 30 characters."
    )
    max_duplicate_char_ratio: float | None = Field(
        0.01, ge=0, le=1, description="Greatest share of characters in lines that repeat an earlier line."
    )
    max_newline_word_ratio: float | None = Field(0.3, ge=0, description="Greatest number of newlines per word.")


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return a rule for documents of white space alone, then the rules of section 3.6."""
    return {
        "empty": below(signals, "max_token_length", 1),
        "too_few_line_ends": below(signals, "terminal_line_ratio", params.min_terminal_line_ratio),
        "too_many_short_lines": above(signals, "short_line_ratio", params.max_short_line_ratio),
        "duplicate_lines": above(signals, "duplicate_filled_line_char_ratio", params.max_duplicate_char_ratio),
        "too_many_newlines": above(signals, "newline_word_ratio", params.max_newline_word_ratio),
    }
