"""Common words that the assistant can spell, list and count."""

from tasks.ingestion.skills.patterns import load_patterns

_PATTERNS = load_patterns("words")
ENGLISH_WORDS = _PATTERNS["english_words"]
CHINESE_WORDS = _PATTERNS["chinese_words"]
