"""Units of length, weight, time and money: so many of the one in the other."""

from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn

NAME = "units"
MAX_COUNT = 20
# (large unit, small unit, how many small ones make a large one): English singular and plural, Chinese
UNITS = (
    (("meter", "meters", "米"), ("centimeter", "centimeters", "厘米"), 100),
    (("kilometer", "kilometers", "公里"), ("meter", "meters", "米"), 1000),
    (("centimeter", "centimeters", "厘米"), ("millimeter", "millimeters", "毫米"), 10),
    (("kilogram", "kilograms", "公斤"), ("gram", "grams", "克"), 1000),
    (("ton", "tons", "吨"), ("kilogram", "kilograms", "公斤"), 1000),
    (("liter", "liters", "升"), ("milliliter", "milliliters", "毫升"), 1000),
    (("hour", "hours", "小时"), ("minute", "minutes", "分钟"), 60),
    (("minute", "minutes", "分钟"), ("second", "seconds", "秒"), 60),
    (("day", "days", "天"), ("hour", "hours", "小时"), 24),
    (("week", "weeks", "个星期"), ("day", "days", "天"), 7),
    (("year", "years", "年"), ("month", "months", "个月"), 12),
    (("dollar", "dollars", "美元"), ("cent", "cents", "美分"), 100),
)
MAX_COUNTS = {60: 6, 24: 5, 7: 8, 12: 8}  # where the product is no number with zeros: what a small model can learn
_PATTERNS = load_patterns("units")
PATTERNS = _PATTERNS["patterns"]
WHAT_ABOUT = _PATTERNS["what_about"]


def draw_turn(draw: Draw) -> Turn:
    """So many large units in small ones."""
    index, count = draw.value(lambda: _sample(draw), _may_hold_out)
    return _turn(draw, PATTERNS[draw.language], index, count, follows=False)


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """Another number of the same unit."""
    index = turn.state["index"]
    _, count = draw.value(lambda: (index, _other_count(draw, index, turn.state["count"])), _may_hold_out)
    return _turn(draw, WHAT_ABOUT[draw.language], index, count, follows=True)


def _turn(draw: Draw, patterns: tuple[str, ...], index: int, count: int, *, follows: bool) -> Turn:
    large, small, factor = UNITS[index]
    if draw.language == "en":
        shown = (
            draw.rng.choice((f"{count} {large[count != 1]}", f"a {large[0]}" if large[0] != "hour" else "an hour"))
            if count == 1
            else f"{count} {large[1]}"
        )
        values, answer = {"large": shown, "small": small[1]}, f"{count * factor} {small[1]}"
    else:
        values, answer = (
            {"large": f"{count if count != 2 or draw.rng.random() < 0.5 else '两'}{large[2]}", "small": small[2]},
            f"{count * factor}{small[2]}",
        )
    return draw.turn(NAME, patterns, values, answer, follows=follows, index=index, count=count)


def _may_hold_out(value: tuple[int, int]) -> bool:
    """Only where the answer is the number with zeros: others, such as 8 weeks in days, must be learned one by one.

    One of a unit is its definition, from which the others follow.
    """
    return UNITS[value[0]][2] % 10 == 0 and UNITS[value[0]][2] >= 100 and value[1] > 1


def _sample(draw: Draw) -> tuple[int, int]:
    index = draw.rng.randrange(len(UNITS))
    return index, _count(draw, index)


def _count(draw: Draw, index: int) -> int:
    return draw.rng.randint(1, MAX_COUNTS.get(UNITS[index][2], MAX_COUNT))


def _other_count(draw: Draw, index: int, count: int) -> int:
    other = _count(draw, index)
    while other == count:
        other = _count(draw, index)
    return other
