"""Drop texts that are shorter or longer than asked, in characters, words or lines; no bound by default."""

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """None is no bound. Characters are code points; words as in signals.num_words."""

    min_characters: int | None = Field(None, ge=0)
    max_characters: int | None = Field(None, ge=0)
    min_words: int | None = Field(None, ge=0)
    max_words: int | None = Field(None, ge=0)
    min_lines: int | None = Field(None, ge=0)
    max_lines: int | None = Field(None, ge=0)


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Each bound, shortest first."""
    return {
        "too_few_characters": below(signals, "num_chars", params.min_characters),
        "too_many_characters": above(signals, "num_chars", params.max_characters),
        "too_few_words": below(signals, "num_words", params.min_words),
        "too_many_words": above(signals, "num_words", params.max_words),
        "too_few_lines": below(signals, "num_lines", params.min_lines),
        "too_many_lines": above(signals, "num_lines", params.max_lines),
    }
