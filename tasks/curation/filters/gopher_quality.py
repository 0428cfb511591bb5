"""Drop texts that do not look like prose: too short, unusual words, too many symbols, bullets or ellipses.

Gopher, arXiv:2112.11446, table A1. The values are computed as in datatrove's GopherQualityFilter.
"""

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """Bounds, by default those that were published for English; null means no bound."""

    min_words: int | None = Field(50, ge=0, description="Least number of words.")
    max_words: int | None = Field(100_000, ge=0, description="Greatest number of words.")
    min_mean_word_length: float | None = Field(3.0, ge=0, description="Least mean length of a word, in characters.")
    max_mean_word_length: float | None = Field(10.0, ge=0, description="Greatest mean length of a word, in characters.")
    max_symbol_word_ratio: float | None = Field(
        0.1, ge=0, description='Greatest number of "#" per word, and of ellipses per word.'
    )
    max_bullet_line_ratio: float | None = Field(
        0.9, ge=0, le=1, description="Greatest share of lines that begin with a bullet or a hyphen."
    )
    max_ellipsis_line_ratio: float | None = Field(
        0.3, ge=0, le=1, description="Greatest share of lines that end with an ellipsis."
    )
    min_alpha_word_ratio: float | None = Field(
        0.8, ge=0, le=1, description="Least share of words that contain a letter."
    )
    min_stop_words: int | None = Field(
        2, ge=0, description="Least number of different stop words of the document's language."
    )


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return one rule for each bound of table A1."""
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
