"""Spelling, first and last letters, and the number of letters of a word; the same of Chinese characters."""

from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn
from tasks.ingestion.skills.words import CHINESE_WORDS, ENGLISH_WORDS

NAME = "letters"
MAX_REVERSE = 4  # letters: longer words are not reversed
KINDS = ("spell", "first", "last", "count", "reverse")
_PATTERNS = load_patterns("letters")
PATTERNS = _PATTERNS["patterns"]
CHARACTERS = _PATTERNS["characters"]
NEXT = _PATTERNS["next"]
CHARACTERS_NEXT = _PATTERNS["characters_next"]
WHAT_ABOUT = _PATTERNS["what_about"]


def draw_turn(draw: Draw) -> Turn:
    """A question about an English word, in Chinese sometimes about Chinese characters."""
    characters = draw.language == "zh" and draw.rng.random() < 0.5
    kind = draw.rng.choice(KINDS[1:] if characters else KINDS)
    word = _word(draw, characters, kind)
    patterns = CHARACTERS[kind] if characters else PATTERNS[kind][draw.language]
    return _turn(draw, patterns, word, kind, follows=False)


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """Another question about the word, or the same about another word."""
    word, kind = turn.state["word"], turn.state["kind"]
    characters = not word.isascii()
    if draw.rng.random() < 0.5:
        return _turn(draw, WHAT_ABOUT[draw.language], _word(draw, characters, kind), kind, follows=True)
    kinds = [other for other in (KINDS[1:] if characters else KINDS) if other != kind]
    if len(word) > MAX_REVERSE and kind != "reverse":
        kinds.remove("reverse")
    kind = draw.rng.choice(kinds)
    patterns = CHARACTERS_NEXT[kind] if characters else NEXT[kind][draw.language]
    return _turn(draw, patterns, word, kind, follows=True)


def answer(kind: str, word: str) -> str:
    """What is asked about the word."""
    if kind == "spell":
        return "-".join(word.upper())
    if kind == "count":
        return str(len(word))
    if kind == "reverse":
        return "-".join(reversed(word.upper())) if word.isascii() else word[::-1]
    letter = word[0] if kind == "first" else word[-1]
    return letter.upper()


def _turn(draw: Draw, patterns: tuple[str, ...], word: str, kind: str, *, follows: bool) -> Turn:
    quote = (
        draw.rng.choice(("{}", "{}", "{}", '"{}"', "'{}'"))
        if draw.language == "en"
        else draw.rng.choice(("{}", "{}", "“{}”", "「{}」"))
    )
    return draw.turn(
        NAME, patterns, {"w": quote.format(word)}, answer(kind, word), follows=follows, word=word, kind=kind
    )


def _word(draw: Draw, characters: bool, kind: str) -> str:
    words = [word for word in CHINESE_WORDS if len(word) > 1] if characters else ENGLISH_WORDS
    if kind == "reverse":
        words = [word for word in words if len(word) <= MAX_REVERSE]
    word: str = draw.rng.choice(words)
    return word
