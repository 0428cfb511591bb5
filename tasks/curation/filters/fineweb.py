"""Drop pages that are lists, menus or boilerplate: few sentence ends, short or repeated lines, many newlines.

FineWeb, arXiv:2406.17557, section 3.6, counted as datatrove's FineWebQualityFilter counts.
"""

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """Defaults as published for English; None is no bound."""

    min_terminal_line_ratio: float | None = Field(0.12, ge=0, le=1)
    max_short_line_ratio: float | None = Field(0.67, ge=0, le=1)
    max_duplicate_char_ratio: float | None = Field(0.01, ge=0, le=1)
    max_newline_word_ratio: float | None = Field(0.3, ge=0)


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """What holds nothing but white space, then the bounds of section 3.6, first come first served."""
    return {
        "empty": below(signals, "max_token_length", 1),
        "too_few_line_ends": below(signals, "terminal_line_ratio", params.min_terminal_line_ratio),
        "too_many_short_lines": above(signals, "short_line_ratio", params.max_short_line_ratio),
        "duplicate_lines": above(signals, "duplicate_filled_line_char_ratio", params.max_duplicate_char_ratio),
        "too_many_newlines": above(signals, "newline_word_ratio", params.max_newline_word_ratio),
    }
