"""Numbers in digits, in English words and in Chinese words: any of the three into another."""

from tasks.ingestion.skills import number_forms
from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn

NAME = "number_words"
MAX_NUMBER = 9_999
HELD_OUT_RANGES = ((2_300, 2_399), (640, 659), (7_700, 7_799))  # whole ranges that only the test split asks about
TEST_RANGE_SHARE = 0.2  # of the numbers of the test split

# target -> language of the question -> patterns
_PATTERNS = load_patterns("number_words")
PATTERNS = _PATTERNS["patterns"]
THE_SAME = _PATTERNS["the_same"]
WHAT_ABOUT = _PATTERNS["what_about"]


def in_held_out_range(number: int) -> bool:
    """Whether a number lies in a range that only the test split asks about."""
    return any(low <= number <= high for low, high in HELD_OUT_RANGES)


def draw_turn(draw: Draw) -> Turn:
    """Write a number in another form."""
    number = _number(draw)
    forms = ["en", "zh", "digits"]
    target = draw.rng.choice(forms)
    source = draw.rng.choice([form for form in forms if form != target])
    return _turn(draw, PATTERNS[target][draw.language], number, source, target, follows=False)


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """Another number in the same form, or the same number in another form."""
    state = turn.state
    if draw.rng.random() < 0.5:
        return _turn(draw, WHAT_ABOUT[draw.language], _number(draw), state["source"], state["target"], follows=True)
    return same_number(draw, state["number"], state["target"], state["source"])


def same_number(draw: Draw, number: int, *used: str) -> Turn:
    """The number of the turn before it in a form that is not among `used`."""
    target = draw.rng.choice([form for form in ("en", "zh", "digits") if form not in used] or ["zh"])
    patterns = THE_SAME[target][draw.language]
    return draw.turn(
        NAME, patterns, {}, write_in_form(number, target), follows=True, number=number, target=target, source=used[0]
    )


def write_in_form(number: int, form: str) -> str:
    """A number in one of the three forms, as answers have it."""
    return str(number) if form == "digits" else number_forms.write_number(number, form)


def _turn(draw: Draw, patterns: tuple[str, ...], number: int, source: str, target: str, follows: bool) -> Turn:
    shown = str(number) if source == "digits" else number_forms.vary_number(number, source, draw.rng)
    answer = write_in_form(number, target)
    return draw.turn(NAME, patterns, {"x": shown}, answer, follows=follows, number=number, source=source, target=target)


def _number(draw: Draw) -> int:
    """Every length alike, zeros often: numbers with zeros are read in another way.

    The test split asks about the held-out ranges more often than their size demands, so that they are measured.
    """
    if draw.for_test and draw.rng.random() < TEST_RANGE_SHARE:
        return draw.rng.randint(*draw.rng.choice(HELD_OUT_RANGES))

    def sample() -> int:
        top = 10 ** draw.rng.randint(1, len(str(MAX_NUMBER)))
        number = draw.rng.randint(top // 10 if top > 10 else 0, top - 1)
        if draw.rng.random() < 0.25:
            number = int(
                "".join(draw.rng.choice((digit, "0")) if place else digit for place, digit in enumerate(str(number)))
            )
        return number

    number = draw.value(sample, lambda number: number >= 100)
    while in_held_out_range(number) and not draw.for_test:
        number = draw.value(sample, lambda number: number >= 100)
    return number
