"""Which texts of the benchmark `own_data` are clean, decided by their characters alone, without code of the project.

A clean Chinese text has at least ten characters, of which three fifths are Chinese, ends with a mark that ends a
sentence, and has no address, no markup, no number of seven digits, no character four times in a row, and no sentence of
five characters twice. A clean English text has at least ten words, begins with a capital, a digit or a quotation mark,
ends a sentence, consists of letters (three quarters with the spaces), digits and punctuation of prose (97 %), and has
no address, no markup, no character four times in a row, and no sentence of five words twice.
"""

import re

_HAN = re.compile("[\u3400-\u9fff]")
_CHINESE_END = re.compile('[。！？!?…][”’」』）)"]*$')
_ENGLISH_START = re.compile("[A-Z0-9\"'“‘]")
_ENGLISH_END = re.compile("[.!?][\"'”’)]*$")
_PROSE = re.compile("[A-Za-z0-9 \n.,;:!?'\"“”‘’()—–-]")
_LETTER = re.compile("[A-Za-z \n]")
_NO_PROSE = re.compile(r"https?:|www\.|@|[<>{}\\|_]|\.(?:com|cn|net|org)\b|\d{7}")
_RUN = re.compile(r"(\S)\1{3}")
_CHINESE_SENTENCES = re.compile("[。！？!?…\n]+")
_ENGLISH_SENTENCES = re.compile(r"[.!?][\"'”’)]*\s+")


def is_clean_chinese(text: str) -> bool:
    """Return whether a text is clean Chinese."""
    text = text.strip()
    visible = "".join(text.split())
    sentences = [sentence.strip() for sentence in _CHINESE_SENTENCES.split(text)]
    return (
        len(text) >= 10
        and len(_HAN.findall(visible)) >= 0.6 * len(visible)
        and bool(_CHINESE_END.search(text))
        and _is_plain(text)
        and _all_differ([sentence for sentence in sentences if len(sentence) >= 5])
    )


def is_clean_english(text: str) -> bool:
    """Return whether a text is clean English; its source tells the language."""
    text = text.strip()
    sentences = [sentence.split() for sentence in _ENGLISH_SENTENCES.split(text)]
    return (
        len(text.split()) >= 10
        and bool(_ENGLISH_START.match(text))
        and bool(_ENGLISH_END.search(text))
        and len(_PROSE.findall(text)) >= 0.97 * len(text)
        and len(_LETTER.findall(text)) >= 0.75 * len(text)
        and _is_plain(text)
        and _all_differ([" ".join(words) for words in sentences if len(words) >= 5])
    )


def _is_plain(text: str) -> bool:
    """Return whether a text has no address, markup, long number, or character that is repeated."""
    return not _NO_PROSE.search(text) and not _RUN.search(text)


def _all_differ(sentences: list[str]) -> bool:
    return len(set(sentences)) == len(sentences)
