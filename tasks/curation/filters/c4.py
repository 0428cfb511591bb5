"""Drop lines that are not sentences, and documents that have too few sentences without them.

C4, arXiv:1910.10683, section 2.2, computed as in datatrove's C4QualityFilter, except that sentences are counted at the
marks that end them, while datatrove uses a tokenizer. The remaining lines replace the text of a kept document.
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
    """Rules for lines and documents, by default those that were published."""

    min_sentences: int | None = Field(
        5, ge=0, description="Least number of sentences in the remaining lines; null means no bound."
    )
    min_line_words: int = Field(3, ge=0, description="Least number of words of a line that is kept.")
    max_word_length: int | None = Field(
        1000, ge=1, description="Greatest number of characters of a word in a line that is kept; null means no bound."
    )
    line_ends: tuple[str, ...] | None = Field(
        (".", "?", "!", '"', "'"), description="Endings of a line that is kept; null keeps lines with any ending."
    )
    javascript_lines: bool = Field(False, description="Keep lines that contain the word Javascript.")
    policy: tuple[str, ...] = Field(
        ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
        description="Phrases in lower case; a line that contains one is removed.",
    )
    lorem_ipsum: bool = Field(False, description='Keep documents that contain "lorem ipsum".')
    curly_brackets: bool = Field(False, description='Keep documents that contain "{".')


def measure_texts(texts: pa.Array, params: Params) -> Mapping[str, Float64Array]:
    """Return the number of sentences in the remaining lines, and whether "lorem ipsum" and "{" occur.

    Each is float64 [documents].
    """
    rows = [_measure_text(text, params) for text in texts.to_pylist()]
    return {name: np.array([row[name] for row in rows], np.float64) for name in ("sentences", "lorem", "curly")}


def edit_text(text: str, params: Params) -> str:
    """Return the remaining lines without citation marks."""
    return "\n".join(line for line in _sentence_lines(text, params) if _is_kept(line, params)).strip()


def drop_reasons(signals: Signals, params: Params, text_measurements: Mapping[str, Float64Array]) -> Reasons:
    """Return the rules on forbidden content, then the rule on the number of sentences."""
    lorem, curly, sentences = (text_measurements[name] for name in ("lorem", "curly", "sentences"))
    min_sentences = 0 if params.min_sentences is None else params.min_sentences
    return {
        "lorem_ipsum": Verdict(lorem > 0, lorem),
        "curly_bracket": Verdict(curly > 0, curly),
        "too_few_sentences": Verdict(sentences < min_sentences, sentences, bound=min_sentences),
    }


def _measure_text(text: str, params: Params) -> dict[str, float]:
    lines = list(_sentence_lines(text, params))
    lorem = not params.lorem_ipsum and any("lorem ipsum" in line.lower() for line in lines)
    # datatrove applies the rules to one line after another, and skips a line with Javascript before it looks for "{".
    # So a bracket in such a line does not drop the document, but "lorem ipsum" does.
    checked = [line for line in lines if params.javascript_lines or "javascript" not in line.lower()]
    curly = not params.curly_brackets and any("{" in line for line in checked)
    kept = [line for line in lines if _is_kept(line, params)]
    return {"sentences": sum(map(_num_sentences, kept)), "lorem": lorem, "curly": curly}


def _sentence_lines(text: str, params: Params) -> Iterator[str]:
    """Yield the lines that end like a sentence, have enough words, and no word that is too long; without citations."""
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
    """Return the number of sentences; text after the last end mark counts as one more."""
    ends = list(_SENTENCE_END.finditer(line))
    rest = line[ends[-1].end() :] if ends else line
    return len(ends) + bool(rest.strip())
