"""The rules of Gopher and FineWeb once more, slowly, in plain Python: what the kernels are held against."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from tasks.curation.text import characters

SINGLE = re.compile(
    r"[\u3005\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3041-\u3096\u30a1-\u30fa\U00020000-\U0003ffff]"
)

CHINESE_ELLIPSIS = "(?<!…)……(?!…)"
CLOSING = "\"'“‘«‹＂＇`*_~"


def words(text: str) -> list[str]:
    words, word = [], ""
    for c in text:
        single, category = bool(SINGLE.match(c)), unicodedata.category(c)[0]
        if not single and (category in "LN" or c == "_" or (word and category == "M")):
            word += c
            continue
        words += [word] if word else []
        words += [c] if single else []
        word = ""
    return words + ([word] if word else [])


def repeated(parts: list[str]) -> tuple[int, int]:
    """How many parts were seen before, and their characters."""
    again = [part for place, part in enumerate(parts) if part in parts[:place]]
    return len(again), sum(map(len, again))


def span(tokens: list[str], n: int) -> int:
    """How many tokens an n-gram has: where most are single Han or Kana, as many as n words of a dictionary."""
    return (7 * n + 1) // 4 if 2 * sum(bool(SINGLE.fullmatch(token)) for token in tokens) > len(tokens) else n


def top(tokens: list[str], n: int, min_count: int = 1) -> int:
    size = span(tokens, n)
    grams = [" ".join(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    if not grams:
        return 0
    gram, count = max(Counter(grams).items(), key=lambda item: (item[1], -grams.index(item[0])))
    return (len(gram) - size + n) * count if count >= min_count else 0


def duplicate(tokens: list[str], n: int) -> int:
    earlier_grams: set[str] = set()
    at, total = 0, 0
    n = span(tokens, n)
    while at + n <= len(tokens):
        gram = "".join(tokens[at : at + n])
        if gram in earlier_grams:
            total += len(gram)
            at += n
        else:
            earlier_grams.add(gram)
            at += 1
    return total


def is_capital(character: str) -> bool:
    return unicodedata.category(character) == "Lu"


def mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / max(len(numbers), 1)


TERMINAL = [c for c in map(chr, range(0x3010)) if characters.class_table()[ord(c)] & characters.TERMINAL]


def ends(line: str, marks: str = "".join([*TERMINAL, "…"])) -> bool:
    """Whether a line ends with one of the marks, before white space, quotes and brackets."""
    while line and (line[-1].isspace() or unicodedata.category(line[-1]) in ("Pe", "Pf") or line[-1] in CLOSING):
        line = line[:-1]
    return line.endswith(tuple(marks))


def signals(text: str) -> dict[str, float]:
    """What `signals.measure` must say of a text that is not empty."""
    tokens, n = words(text), len(text)
    num, content = max(len(tokens), 1), [t for t in tokens if set(t) != {"_"}]
    lines, filled = text.splitlines(), [line for line in text.split("\n") if line.strip()]
    pieces, paragraphs = re.split("\n+", text), re.split("\n\n+", text.strip())
    letters = [c for c in text if c.isalpha()]
    bare = [line.strip() for line in lines]
    counts = Counter(tokens)
    prose = [token for token in content if len(token) > 1 and not all(c.isdecimal() for c in token)]

    expected: dict[str, float] = {
        "num_bytes": len(text.encode()),
        "num_chars": n,
        "num_words": len(tokens),
        "num_content_words": len(content),
        "num_lines": len(lines),
        "num_filled_lines": len(filled),
        "num_paragraphs": len(paragraphs),
        "mean_word_length": sum(map(len, content)) / len(content) if content else 0,
        "mean_prose_word_length": mean(map(len, prose if 2 * len(prose) > len(content) else content)),
        "max_token_length": max(map(len, text.split()), default=0),
        "unique_word_ratio": len(set(tokens)) / num,
        "word_entropy": -sum(c / num * math.log(c / num) for c in counts.values()) if tokens else 0,
        "alpha_word_ratio": sum(any(c.isalpha() for c in t) for t in tokens) / num,
        "letter_ratio": len(letters) / n,
        "digit_ratio": sum(c.isdecimal() for c in text) / n,
        "space_ratio": sum(c.isspace() for c in text) / n,
        "hash_word_ratio": text.count("#") / num,
        "ellipsis_word_ratio": (text.count("...") + text.count("…")) / num,
        "omission_word_ratio": (text.count("...") + len(re.sub(CHINESE_ELLIPSIS, "", text).split("…")) - 1) / num,
        "listed_line_ratio": sum(line.startswith(("•", "-")) and not ends(line) for line in bare) / max(len(lines), 1),
        "truncated_line_ratio": sum(
            line.endswith(("...", "…")) and not re.search(CHINESE_ELLIPSIS + "$", line) for line in bare
        )
        / max(len(lines), 1),
        "sentence_line_ratio": sum(map(ends, filled)) / max(len(filled), 1),
        "open_newline_word_ratio": sum(not ends(line) and not ends(line, ",;、，；") for line in filled[:-1]) / num,
        "duplicate_filled_line_ratio": repeated(filled)[0] / max(len(filled), 1),
        "bullet_line_ratio": sum(line.startswith(("•", "-")) for line in bare) / max(len(lines), 1),
        "ellipsis_line_ratio": sum(line.endswith(("...", "…")) for line in bare) / max(len(lines), 1),
        "terminal_line_ratio": sum(line.endswith(tuple(TERMINAL)) for line in filled) / max(len(filled), 1),
        "short_line_ratio": sum(len(line) <= 30 for line in filled) / max(len(filled), 1),
        "mean_line_words": len(tokens) / max(len(filled), 1),
        "mean_line_digit_ratio": mean(sum(c.isdecimal() for c in line) / len(line) for line in filled),
        "mean_line_upper_ratio": mean(
            sum(unicodedata.category(c) == "Lu" for c in line) / len(line) for line in filled
        ),
        "newline_word_ratio": text.count("\n") / num,
        "duplicate_line_ratio": repeated(pieces)[0] / len(pieces),
        "duplicate_line_char_ratio": repeated(pieces)[1] / n,
        "duplicate_filled_line_char_ratio": repeated(filled)[1] / max(len(text.replace("\n", "")), 1),
        "duplicate_paragraph_ratio": repeated(paragraphs)[0] / len(paragraphs),
        "duplicate_paragraph_char_ratio": repeated(paragraphs)[1] / n,
        "han_ratio": sum("\u4e00" <= c <= "\u9fff" or c >= "\U00020000" for c in letters) / max(len(letters), 1),
    }
    return expected | ngram_ratios(tokens, n)


def ngram_ratios(tokens: list[str], num_characters: int) -> dict[str, float]:
    """The signals of repeated n-grams."""
    n = num_characters
    ratios = {f"top_{size}_gram_ratio": top(tokens, size) / n for size in range(2, 5)}
    ratios |= {f"repeated_{size}_gram_ratio": top(tokens, size, 2) / n for size in range(2, 5)}
    return ratios | {f"duplicate_{size}_gram_ratio": duplicate(tokens, size) / n for size in range(5, 11)}
