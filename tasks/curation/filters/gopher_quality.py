"""Drop what does not look like prose: too short, odd words, too many symbols, bullets or ellipses.

Gopher, arXiv:2112.11446, table A1, counted as datatrove's GopherQualityFilter counts.
"""

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """Defaults as published for English; None is no bound."""

    min_words: int | None = Field(50, ge=0)
    max_words: int | None = Field(100_000, ge=0)
    min_mean_word_length: float | None = Field(3.0, ge=0)
    max_mean_word_length: float | None = Field(10.0, ge=0)
    max_symbol_word_ratio: float | None = Field(0.1, ge=0)
    max_bullet_line_ratio: float | None = Field(0.9, ge=0, le=1)
    max_ellipsis_line_ratio: float | None = Field(0.3, ge=0, le=1)
    min_alpha_word_ratio: float | None = Field(0.8, ge=0, le=1)
    min_stop_words: int | None = Field(2, ge=0)


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """The bounds of table A1, first come first served."""
    return {
        "too_few_words": below(signals, "num_content_words", params.min_words),
        "too_many_words": above(signals, "num_content_words", params.max_words),
        "words_too_short": below(signals, "mean_word_length", params.min_mean_word_length),
        "words_too_long": above(signals, "mean_word_length", params.max_mean_word_length),
        "too_many_hashes": above(signals, "hash_word_ratio", params.max_symbol_word_ratio),
        "too_many_ellipses": above(signals, "ellipsis_word_ratio", params.max_symbol_word_ratio),
        "too_many_bullets": above(signals, "bullet_line_ratio", params.max_bullet_line_ratio),
        "too_many_line_ellipses": above(signals, "ellipsis_line_ratio", params.max_ellipsis_line_ratio),
        "too_few_words_with_letters": below(signals, "alpha_word_ratio", params.min_alpha_word_ratio),
        "too_few_stop_words": below(signals, "num_stop_words", params.min_stop_words),
    }
