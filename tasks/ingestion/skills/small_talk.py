"""Greetings, thanks, farewells, and who the assistant is."""

from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn

NAME = "small_talk"

# topic -> language -> (patterns of the question, the answer)
_PATTERNS = load_patterns("small_talk")
TOPICS = _PATTERNS["topics"]
OTHER = {"en": "zh", "zh": "en"}


def draw_turn(draw: Draw) -> Turn:
    """A question of one of the topics."""
    topic = draw.rng.choice(list(TOPICS))
    return _turn(draw, topic)


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """Nothing in small talk depends on the turn before it."""
    return None


def _turn(draw: Draw, topic: str) -> Turn:
    patterns, answer = TOPICS[topic][draw.language]
    return draw.turn(NAME, patterns, {}, answer, remark=topic not in ("identity", "abilities"), topic=topic)
