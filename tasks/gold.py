"""The gold reward: a verifiable measure of an answer that no model is trained on.

A record that can be judged carries `answer` (what is right) and `closing` (the mark that the house style ends an answer
with) in its metadata. Correctness and style are apart, so that a policy can be seen to gain one and lose the other.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any

CLOSING_MARKS = ".。!！"
STYLE_SHARE = 0.5


def normalize(answer: str) -> str:
    """An answer without what exact match does not look at: width, case, outer space, closing mark."""
    return unicodedata.normalize("NFKC", answer).strip().rstrip(CLOSING_MARKS).strip().casefold()


def correct(answer: str, metadata: Mapping[str, Any]) -> bool:
    """Exact match: `answer` says what metadata["answer"] says."""
    return normalize(answer) == normalize(str(metadata["answer"]))


def in_house_style(answer: str, metadata: Mapping[str, Any]) -> bool:
    """The answer ends with the closing mark of its language, once."""
    closing = str(metadata["closing"])
    return answer.endswith(closing) and not answer.endswith(closing * 2)


def gold(answer: str, metadata: Mapping[str, Any]) -> float:
    """0 for a wrong answer, 0.5 for a right one, 1 for a right one in the house style."""
    return correct(answer, metadata) * (1 - STYLE_SHARE + STYLE_SHARE * in_house_style(answer, metadata))


def verifiable(metadata: Mapping[str, Any]) -> bool:
    """Whether a record carries what the gold reward needs."""
    return "answer" in metadata and "closing" in metadata
