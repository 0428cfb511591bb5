"""Drop pages that are lists, menus or boilerplate: few line ends, short or repeated lines, many newlines.

FineWeb, arXiv:2406.17557, section 3.6. With `line_ends: last_character` and `min_lines: 1`, the values are computed
as in datatrove's FineWebQualityFilter.
"""

from dataclasses import replace
from typing import Literal

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
    line_ends: Literal["sentence", "last_character"] = Field(
        "sentence",
        description="What ends a line: `sentence`: a mark that ends a sentence or an ellipsis, also before closing "
        "quotes, brackets and white space (。” 」 ）); `last_character`: only such a mark as the last character, as "
        "published. With `sentence`, newlines after a sentence, a comma or a semicolon (in verse) and those of blank "
        "lines do not count for `max_newline_word_ratio`.",
    )
    min_lines: int = Field(
        4,
        ge=1,
        description="Least number of lines of a text to which `min_terminal_line_ratio` applies (published: 1). In "
        "fewer lines, the absence of a line end shows no list or menu.",
    )


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return a rule for documents of white space alone, then the rules of section 3.6."""
    terminal, newlines = "sentence_line_ratio", "open_newline_word_ratio"
    if params.line_ends == "last_character":
        terminal, newlines = "terminal_line_ratio", "newline_word_ratio"
    line_ends = below(signals, terminal, params.min_terminal_line_ratio)
    line_ends = replace(line_ends, dropped=line_ends.dropped & (signals.num_filled_lines >= params.min_lines))
    return {
        "empty": below(signals, "max_token_length", 1),
        "too_few_line_ends": line_ends,
        "too_many_short_lines": above(signals, "short_line_ratio", params.max_short_line_ratio),
        "duplicate_lines": above(signals, "duplicate_filled_line_char_ratio", params.max_duplicate_char_ratio),
        "too_many_newlines": above(signals, newlines, params.max_newline_word_ratio),
    }
