"""Drop texts that do not look like prose: too short, unusual words, too many symbols, bullets or ellipses.

Gopher, arXiv:2112.11446, table A1. With `published: true`, the values are computed as in datatrove's
GopherQualityFilter.
"""

from dataclasses import replace

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above, below

_PUBLISHED = ("ellipsis_word_ratio", "ellipsis_line_ratio", "bullet_line_ratio", "mean_word_length")
_CORRECTED = ("omission_word_ratio", "truncated_line_ratio", "listed_line_ratio", "mean_prose_word_length")


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
    stop_words_min_words: int = Field(
        50,
        ge=0,
        description="Least number of words of a text to which `min_stop_words` applies. The bound was published for "
        "texts of at least 50 words; a correct sentence of 10 words may contain no stop word.",
    )
    published: bool = Field(
        False,
        description="Compute all values as published. By default, the Chinese ellipsis …… is a mark that ends a "
        "sentence and no omission; a sentence behind a bullet is no bullet; numbers and single letters, as in proofs, "
        "are no short words; and `stop_words_min_words` applies.",
    )


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return one rule for each bound of table A1."""
    stop_words = below(signals, "num_stop_words", params.min_stop_words)
    ellipses, line_ellipses, bullets, lengths = _PUBLISHED if params.published else _CORRECTED
    too_short = below(signals, lengths, params.min_mean_word_length)
    if not params.published:
        # The words of a text in Chinese and English are single characters and words: their mean length says nothing.
        too_short = replace(too_short, dropped=too_short.dropped & (signals.second_language_share == 0))
        is_long = signals.num_content_words >= params.stop_words_min_words
        stop_words = replace(stop_words, dropped=stop_words.dropped & is_long)
    return {
        "too_few_words": below(signals, "num_content_words", params.min_words),
        "too_many_words": above(signals, "num_content_words", params.max_words),
        "words_too_short": too_short,
        "words_too_long": above(signals, "mean_word_length", params.max_mean_word_length),
        "too_many_hashes": above(signals, "hash_word_ratio", params.max_symbol_word_ratio),
        "too_many_ellipses": above(signals, ellipses, params.max_symbol_word_ratio),
        "too_many_bullets": above(signals, bullets, params.max_bullet_line_ratio),
        "too_many_line_ellipses": above(signals, line_ellipses, params.max_ellipsis_line_ratio),
        "too_few_words_with_letters": below(signals, "alpha_word_ratio", params.min_alpha_word_ratio),
        "too_few_stop_words": stop_words,
    }
