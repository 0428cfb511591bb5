"""The gold reward: a verifiable measure of answers that no model is trained on.

The metadata of a verifiable record contain `answer`, the correct answer, and `closing`, the mark that ends an answer in
house style. Correctness and style are measured separately, because a policy may gain one and lose the other.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any

CLOSING_MARKS = ".。!！"
STYLE_SHARE = 0.5


def normalize(answer: str) -> str:
    """Remove the differences that exact match ignores: character width, case, outer spaces and the closing mark."""
    return unicodedata.normalize("NFKC", answer).strip().rstrip(CLOSING_MARKS).strip().casefold()


def correct(answer: str, metadata: Mapping[str, Any]) -> bool:
    """Whether `answer` equals metadata["answer"] (exact match)."""
    return normalize(answer) == normalize(str(metadata["answer"]))


def in_house_style(answer: str, metadata: Mapping[str, Any]) -> bool:
    """Whether the answer ends with exactly one closing mark of its language."""
    closing = str(metadata["closing"])
    return answer.endswith(closing) and not answer.endswith(closing * 2)


def gold(answer: str, metadata: Mapping[str, Any]) -> float:
    """0 for a wrong answer, 0.5 for a correct one, 1 for a correct one in house style."""
    return correct(answer, metadata) * (1 - STYLE_SHARE + STYLE_SHARE * in_house_style(answer, metadata))


def verifiable(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata of a record contain what the gold reward needs."""
    return "answer" in metadata and "closing" in metadata
