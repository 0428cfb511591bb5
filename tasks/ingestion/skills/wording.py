"""Questions in many wordings: patterns with alternatives, phrases around them, and the way people type.

A pattern is text with `(a|b|c)` for alternatives (an empty one makes a part optional) and `{name}` for a value. What
surrounds it ("can you tell me ...", 请问...) and how it is typed (lower case, no punctuation, a misspelled word) is
drawn apart, so that a few patterns give thousands of questions. One wording in ten is kept for the test split.
"""

import hashlib
import random
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from tasks.ingestion.skills.patterns import load_patterns

LANGUAGES = ("en", "zh")
TEST_SHARE = 0.1  # of the wordings
NUM_BARE = 4  # the shortest wordings, in which exercises are asked
# Share of questions in capital letters, whose tokens are others than those of small letters. Training has more of them:
# with the share of the test, most of the known questions that the assistant refused were written in capitals.
CAPITALS, TRAIN_CAPITALS = 0.06, 0.12

# What stands before and after a question. `$` marks phrases that only fit before a clause such as "what is ...".
_PATTERNS = load_patterns("wording")
BEFORE = _PATTERNS["before"]
# Before a remark ("thank you") or a question that goes on with the turn before it.
SHORT_BEFORE = _PATTERNS["short_before"]
AFTER = _PATTERNS["after"]
END = _PATTERNS["end"]

_GROUP = re.compile(r"\(([^()]*)\)")
_FULL_WIDTH = {ord(c): ord(c) + 0xFEE0 for c in string.digits + "+-="}


@dataclass(frozen=True, slots=True)
class Wording:
    """A pattern with its alternatives chosen; `for_test` says that only the test split may use it."""

    text: str
    for_test: bool


@cache
def wordings(patterns: tuple[str, ...]) -> tuple[Wording, ...]:
    """Every wording of the patterns, the shortest first.

    A hash of its text decides whether a wording is for the test split. The shortest quarter never is: it contains what
    nearly everybody types ("what can you do"), and an assistant that is not trained on it is of no use.
    """
    texts = sorted(dict.fromkeys(text for pattern in patterns for text in _expand(pattern)), key=len)
    return tuple(Wording(text, rank >= len(texts) / 4 and _is_for_test(text)) for rank, text in enumerate(texts))


@cache
def _by_split(patterns: tuple[str, ...]) -> tuple[list[Wording], list[Wording]]:
    """Return the wordings of both splits, the shortest first, and those of the test split only."""
    every = wordings(patterns)
    seen = [wording for wording in every if not wording.for_test]
    return seen or list(every), [wording for wording in every if wording.for_test]


def _expand(pattern: str) -> list[str]:
    group = _GROUP.search(pattern)
    if group is None:
        return [" ".join(pattern.split())]
    before, after = pattern[: group.start()], pattern[group.end() :]
    return [text for choice in group[1].split("|") for text in _expand(before + choice + after)]


def _is_for_test(text: str) -> bool:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < TEST_SHARE


def ask(
    patterns: Sequence[str],
    values: Mapping[str, object],
    language: str,
    rng: random.Random,
    *,
    for_test: bool,
    remark: bool = False,
    bare: bool = False,
) -> tuple[str, bool]:
    """A question in one of the wordings, and whether that wording is for the test split only.

    The train split takes the other wordings only; the test split takes either, half of the time each.
    """
    seen, unseen = _by_split(tuple(patterns))
    if bare:
        return rng.choice(seen[:NUM_BARE]).text.format(**values), False
    use_unseen = bool(for_test and unseen and rng.random() < 0.5)
    wording = rng.choice(unseen if use_unseen else seen)
    capitals = CAPITALS if for_test else TRAIN_CAPITALS
    return type_question(wording.text, values, language, rng, remark, capitals), use_unseen


def type_question(
    text: str,
    values: Mapping[str, object],
    language: str,
    rng: random.Random,
    remark: bool = False,
    capitals: float = CAPITALS,
) -> str:
    """`text` as a person may type it, with phrases around it and `values` in it; values are never misspelled.

    `remark`: the text is no question of its own ("thank you", "and plus five"), so that fewer phrases go with it.
    `capitals`: how often everything is in capital letters.
    """
    if remark:
        before = rng.choice(SHORT_BEFORE[language]) if rng.random() < 0.15 else ""
        after = ""
    else:
        before = rng.choice(BEFORE[language]) if rng.random() < 0.55 else ""
        after = rng.choice(AFTER[language]) if rng.random() < 0.3 else ""
    # A sentence that goes on after a phrase begins with a small letter, or not.
    if before and language == "en" and rng.random() < 0.7:
        text = text[:1].lower() + text[1:]
    text = before + text + after + rng.choice(END[language])
    if language == "en":
        text = _add_typing_errors(text, rng)
    question = text.format(**values)
    if language == "en" and rng.random() < capitals:
        question = question.upper()
    if rng.random() < 0.05:
        question = question.translate(_FULL_WIDTH)
    return question.strip()


def _add_typing_errors(text: str, rng: random.Random) -> str:
    """Lower case, missing punctuation, a misspelled word: each now and then."""
    if rng.random() < 0.45:
        text = text.lower()
    if rng.random() < 0.25:
        text = re.sub(r"[,.:!]", "", text)
    if rng.random() < 0.1:
        text = text.replace("what's", "whats").replace("What's", "Whats").replace("'", "")
    if rng.random() < 0.1:
        text = _misspell(text, rng)
    return text


def _misspell(text: str, rng: random.Random) -> str:
    """One letter of one longer word dropped, doubled or swapped with its neighbor; values are left alone."""
    words = list(re.finditer(r"(?<![{\w])[A-Za-z]{4,}(?![}\w])", text))
    if not words:
        return text
    word = rng.choice(words)
    place = rng.randrange(word.start() + 1, word.end() - 1)
    slip = rng.choice(("drop", "double", "swap"))
    if slip == "drop":
        return text[:place] + text[place + 1 :]
    if slip == "double":
        return text[:place] + text[place] + text[place:]
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
