"""Drop texts that are too short or too long, in characters, words or lines; there is no bound by default."""

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above, below


class Params(BaseModel, frozen=True, extra="forbid"):
    """Bounds on the length; null means no bound."""

    min_characters: int | None = Field(None, ge=0, description="Least number of code points.")
    max_characters: int | None = Field(None, ge=0, description="Greatest number of code points.")
    min_words: int | None = Field(None, ge=0, description="Least number of words, as the signal num_words counts them.")
    max_words: int | None = Field(None, ge=0, description="Greatest number of words (signal num_words).")
    min_lines: int | None = Field(None, ge=0, description="Least number of lines, split as str.splitlines does.")
    max_lines: int | None = Field(None, ge=0, description="Greatest number of lines.")


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """Return one rule for each bound."""
    return {
        "too_few_characters": below(signals, "num_chars", params.min_characters),
        "too_many_characters": above(signals, "num_chars", params.max_characters),
        "too_few_words": below(signals, "num_words", params.min_words),
        "too_many_words": above(signals, "num_words", params.max_words),
        "too_few_lines": below(signals, "num_lines", params.min_lines),
        "too_many_lines": above(signals, "num_lines", params.max_lines),
    }
