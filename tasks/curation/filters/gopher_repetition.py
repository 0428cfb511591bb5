"""Drop documents that repeat their lines, paragraphs or word n-grams.

Gopher, arXiv:2112.11446, table A1, counted as datatrove's GopherRepetitionFilter counts.
"""

from typing import Annotated

from pydantic import BaseModel, Field

from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, above

Share = Annotated[float | None, Field(ge=0)]


class Params(BaseModel, frozen=True, extra="forbid"):
    """Defaults as published for English; None is no bound."""

    max_duplicate_paragraph_ratio: Share = 0.3
    max_duplicate_paragraph_char_ratio: Share = 0.2
    max_duplicate_line_ratio: Share = 0.3
    max_duplicate_line_char_ratio: Share = 0.2
    max_top_2_gram_ratio: Share = 0.2
    max_top_3_gram_ratio: Share = 0.18
    max_top_4_gram_ratio: Share = 0.16
    max_duplicate_5_gram_ratio: Share = 0.15
    max_duplicate_6_gram_ratio: Share = 0.14
    max_duplicate_7_gram_ratio: Share = 0.13
    max_duplicate_8_gram_ratio: Share = 0.12
    max_duplicate_9_gram_ratio: Share = 0.11
    max_duplicate_10_gram_ratio: Share = 0.10


def drop_reasons(signals: Signals, params: Params) -> Reasons:
    """One reason per bound, each named after its signal; they are asked from paragraphs down to n-grams."""
    bounds = {name.removeprefix("max_"): getattr(params, name) for name in Params.model_fields}
    return {signal.removesuffix("_ratio"): above(signals, signal, bound) for signal, bound in bounds.items()}
