"""Drop lines that are no sentences, and documents of which too little is left.

C4, arXiv:1910.10683, section 2.2, as datatrove's C4QualityFilter has it, but for sentences: those are counted at the
marks that end them, where datatrove asks a tokenizer. What stays of a document replaces it.
"""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from tasks.curation.arrays import Float64Array
from tasks.curation.signals.signals import Signals
from tasks.curation.verdicts import Reasons, Verdict

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_SENTENCE_END = re.compile(r"[.!?。！？]+[\"'”’)]*(?=\s|$)|[。！？]")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Defaults as published; None is no bound."""

    min_sentences: int | None = Field(5, ge=0)
    min_line_words: int = Field(3, ge=0)
    max_word_length: int | None = Field(1000, ge=1)
    line_ends: tuple[str, ...] | None = (".", "?", "!", '"', "'")
    javascript_lines: bool = False  # keep lines with the word Javascript
    policy: tuple[str, ...] = (
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    )
    lorem_ipsum: bool = False  # keep documents with it
    curly_brackets: bool = False  # keep documents with "{"


def look(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """Sentences in the lines that stay, and what forbids a document as a whole, of the lines up to there."""
    rows = [_judge(text, params) for text in texts.to_pylist()]
    return {name: np.array([row[name] for row in rows], np.float64) for name in ("sentences", "lorem", "curly")}


def edit(text: str, params: Params) -> str:
    """The lines that stay, citations taken out."""
    return "\n".join(_kept(text, params)).strip()


def drop_reasons(signals: Signals, params: Params, looked: Mapping[str, Float64Array]) -> Reasons:
    """What a document must not hold, then what it must."""
    fewest = 0 if params.min_sentences is None else params.min_sentences
    return {
        "lorem_ipsum": Verdict(looked["lorem"] > 0, looked["lorem"]),
        "curly_bracket": Verdict(looked["curly"] > 0, looked["curly"]),
        "too_few_sentences": Verdict(looked["sentences"] < fewest, looked["sentences"], bound=fewest),
    }


def _judge(text: str, params: Params) -> dict[str, float]:
    lines = list(_sentences(text, params))
    lorem = not params.lorem_ipsum and any("lorem ipsum" in line.lower() for line in lines)
    checked = [line for line in lines if params.javascript_lines or "javascript" not in line.lower()]
    curly = not params.curly_brackets and any("{" in line for line in checked)
    kept = [line for line in lines if _is_kept(line, params)]
    return {"sentences": sum(map(_num_sentences, kept)), "lorem": lorem, "curly": curly}


def _kept(text: str, params: Params) -> Iterator[str]:
    return (line for line in _sentences(text, params) if _is_kept(line, params))


def _sentences(text: str, params: Params) -> Iterator[str]:
    """Lines that end as a sentence does and have words enough, none of them too long; without citations."""
    for raw in text.splitlines():
        words = raw.split()
        if params.max_word_length is not None and any(len(word) > params.max_word_length for word in words):
            continue
        line = _CITATION.sub("", raw.strip())
        if params.line_ends is not None and (not line.endswith(params.line_ends) or line.endswith("...")):
            continue
        if len(words) >= params.min_line_words:
            yield line


def _is_kept(line: str, params: Params) -> bool:
    lower = line.lower()
    if not params.javascript_lines and "javascript" in lower:
        return False
    return not any(phrase in lower for phrase in params.policy)


def _num_sentences(line: str) -> int:
    ends = list(_SENTENCE_END.finditer(line))
    rest = line[ends[-1].end() :] if ends else line
    return len(ends) + bool(rest.strip())
