"""Sums, differences and small products, in digits or in words, one after another."""

from tasks.ingestion.skills import number_forms, number_words
from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn

NAME = "arithmetic"
MAX_SUM, MAX_FACTOR = 50, 10

_PATTERNS = load_patterns("arithmetic")
PATTERNS = _PATTERNS["patterns"]
FOLLOW_UPS = _PATTERNS["follow_ups"]
SIGNS = {"+": {"en": "plus", "zh": "加"}, "-": {"en": "minus", "zh": "减"}, "*": {"en": "times", "zh": "乘"}}


def draw_turn(draw: Draw) -> Turn:
    """A sum, difference or product of two numbers."""
    sign = draw.rng.choices("+-*", (4, 5, 2))[0]
    a, b = _operands(draw, sign)
    return _turn(draw, PATTERNS[sign][draw.language], sign, a, b, draw.rng.random() < 0.7)


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """The result and one more number; other numbers; or the result in other words."""
    chance, result, digits = draw.rng.random(), turn.state["result"], turn.state["digits"]
    if chance < 0.2:
        return number_words.same_number(draw, result, "digits" if digits else turn.language)
    if chance < 0.35:
        sign = turn.state["sign"]
        a, b = _operands(draw, sign)
        a_text, b_text = (_write(number, draw, digits) for number in (a, b))
        words = {
            "en": ("(and|what about|how about|now) {a} " + ("times" if sign == "*" else sign) + " {b}",),
            "zh": ("(那|那么|换成){a}" + SIGNS[sign]["zh"] + "{b}呢",),
        }
        return _make_turn(draw, words[draw.language], sign, a, b, digits, {"a": a_text, "b": b_text}, follows=False)
    sign = draw.rng.choice("+--") if result < MAX_SUM else "-"
    if result == 0:
        sign = "+"
    most = MAX_SUM - result if sign == "+" else result
    b = draw.rng.randint(1, max(1, min(most, draw.rng.choice((9, 20)))))
    return _make_turn(
        draw,
        FOLLOW_UPS[sign][draw.language],
        sign,
        result,
        b,
        digits,
        {"b": _write(b, draw, digits)},
        follows=True,
    )


def solve(a: int, sign: str, b: int) -> int:
    """The result."""
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def _turn(draw: Draw, patterns: tuple[str, ...], sign: str, a: int, b: int, digits: bool) -> Turn:
    return _make_turn(
        draw,
        patterns,
        sign,
        a,
        b,
        digits,
        {"a": _write(a, draw, digits), "b": _write(b, draw, digits)},
        follows=False,
    )


def _make_turn(
    draw: Draw,
    patterns: tuple[str, ...],
    sign: str,
    a: int,
    b: int,
    digits: bool,
    values: dict[str, str],
    *,
    follows: bool,
) -> Turn:
    result = solve(a, sign, b)
    if digits:
        answer = f"{a} {sign} {b} = {result}" if sign != "*" else f"{a} x {b} = {result}"
    else:
        x, y, z = (number_forms.write_number(number, draw.language) for number in (a, b, result))
        word = SIGNS[sign][draw.language]
        answer = f"{x} {word} {y} is {z}".capitalize() if draw.language == "en" else f"{x}{word}{y}等于{z}"
    return draw.turn(
        NAME, patterns, values, answer, follows=follows, sign=sign, number_a=a, number_b=b, result=result, digits=digits
    )


def _write(number: int, draw: Draw, digits: bool) -> str:
    return str(number) if digits else number_forms.vary_number(number, draw.language, draw.rng)


def _operands(draw: Draw, sign: str) -> tuple[int, int]:
    rng = draw.rng

    def sample() -> tuple[int, int]:
        if sign == "*":
            return rng.randint(0, MAX_FACTOR), rng.randint(0, MAX_FACTOR)
        top = rng.choice((10, 20, MAX_SUM))
        a = rng.randint(0, top)
        b = rng.randint(0, MAX_SUM - a if rng.random() < 0.3 else min(top, MAX_SUM - a))
        return (a, b) if sign == "+" else (a + b, b) if rng.random() < 0.9 else (max(a, b), min(a, b))

    return draw.value(sample, lambda pair: sign != "*" and max(pair) > 10)
