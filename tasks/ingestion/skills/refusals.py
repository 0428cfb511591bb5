"""Questions that the assistant cannot answer, and its honest refusal."""

from typing import Any

from tasks.ingestion.skills import number_words, wording
from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn

NAME = "refusal"
ANSWER = {
    "en": "I only know numbers, dates, units, lists and spelling",
    "zh": "我只会数字、日期、单位、列表和拼写",
}
_PATTERNS = load_patterns("refusals")
FILLERS = _PATTERNS["fillers"]
PATTERNS = _PATTERNS["patterns"]
TOO_LARGE = _PATTERNS["too_large"]


def draw_turn(draw: Draw) -> Turn:
    """A question outside of every skill; sometimes one that looks like a skill, with numbers that are too large."""
    rng = draw.rng
    if rng.random() < 0.1:
        number = {"x": rng.randint(number_words.MAX_NUMBER + 1, 10 ** rng.randint(5, 9))}
        patterns = number_words.PATTERNS[rng.choice(("en", "zh"))][draw.language]
        return draw.turn(NAME, patterns, number, ANSWER[draw.language], topic="too_large")
    if rng.random() < 0.15:
        numbers = {"a": rng.randint(200, 10 ** rng.randint(3, 7)), "b": rng.randint(200, 10 ** rng.randint(3, 7))}
        numbers["c"] = rng.randint(10_000, 10 ** rng.randint(5, 9))
        return draw.turn(NAME, TOO_LARGE[draw.language], numbers, ANSWER[draw.language], topic="too_large")
    index = 0 if draw.language == "en" else 1
    values: dict[str, Any] = {}
    for name, words in FILLERS.items():
        choices = _split(words[index])
        values[name] = draw.value(lambda choices=choices: rng.choice(choices))  # type: ignore[misc]
    values["thing2"] = rng.choice(_split(FILLERS["thing"][index]))
    return draw.turn(NAME, [draw_pattern(draw)], values, ANSWER[draw.language], topic="other")


def draw_pattern(draw: Draw) -> str:
    """A pattern, by the square root of its number of wordings: a few patterns have most of the wordings."""
    patterns: list[str] = PATTERNS[draw.language]
    return draw.rng.choices(patterns, [len(wording.wordings((pattern,))) ** 0.5 for pattern in patterns])[0]


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """Asking again does not help."""
    patterns = {
        "en": (
            "(why not|are you sure|please try|try anyway|come on|just guess|but why|please)",
            "(can you try|I need to know|really)",
        ),
        "zh": ("(为什么不能|真的吗|试一试吧|再想想|随便猜一个|求你了|为什么|你确定吗|可是我想知道|你试试看)",),
    }
    return draw.turn(NAME, patterns[draw.language], {}, ANSWER[draw.language], follows=True, topic="again")


def _split(text: str) -> list[str]:
    return text.split("|") if "|" in text else text.split()
