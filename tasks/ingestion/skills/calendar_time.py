"""Weekdays, months and clock times: which one comes before or after another."""

from tasks.ingestion import numerals
from tasks.ingestion.skills.patterns import load_patterns
from tasks.ingestion.skills.turns import Draw, Turn

NAME = "calendar"
# A week and a clock have so few values that each is learned by itself. None is held out: only wordings are.
MAX_DAYS, MAX_HOURS = 3, 6
WEEKDAYS = {
    "en": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "zh": [f"星期{day}" for day in "一二三四五六日"],
}
ENGLISH_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
MONTHS = {
    "en": ENGLISH_MONTHS,
    "zh": tuple(f"{numerals.chinese(month)}月" for month in range(1, 13)),
}
DAYS_OF_MONTH = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]

_PATTERNS = load_patterns("calendar_time")
STEP = _PATTERNS["step"]
IN_DAYS = _PATTERNS["in_days"]
MONTH_STEP = _PATTERNS["month_step"]
DAYS_IN = _PATTERNS["days_in"]
ORDINAL = _PATTERNS["ordinal"]
WEEK_FACTS = _PATTERNS["week_facts"]
CLOCK = _PATTERNS["clock"]
HALF = _PATTERNS["half"]
NEXT_STEP = _PATTERNS["next_step"]
WHAT_ABOUT = _PATTERNS["what_about"]


def draw_turn(draw: Draw) -> Turn:
    """A question about weekdays, months or hours."""
    kind = draw.rng.choice(
        (
            "day",
            "day",
            "day",
            "in_days",
            "month",
            "month",
            "month",
            "days_in",
            "ordinal",
            "fact",
            "clock",
            "clock",
            "half",
        )
    )
    rng, language = draw.rng, draw.language
    if kind == "day":
        return _day(draw, rng.randrange(7), rng.choice(("after", "before")))
    if kind == "in_days":
        day, days = rng.randrange(7), rng.randint(2, MAX_DAYS)
        answer = WEEKDAYS[language][(day + days) % 7]
        return draw.turn(
            NAME,
            IN_DAYS[language],
            {"d": _weekday(day, draw), "n": days},
            answer,
            kind="in_days",
            day=(day + days) % 7,
            step="after",
        )
    if kind in ("month", "days_in", "ordinal"):
        return _month(draw, rng.randrange(12), kind)
    if kind == "fact":
        patterns, answer = WEEK_FACTS[rng.choice(list(WEEK_FACTS))][language]
        return draw.turn(NAME, patterns, {}, answer, kind="fact")
    if kind == "clock":
        return _clock(draw, rng.randint(1, 12), rng.randint(1, MAX_HOURS))
    hour = rng.randint(1, 12)
    return _half(draw, hour, rng.choice(("half", "past", "to")))


def follow_up(turn: Turn, draw: Draw) -> Turn | None:
    """The next day; the same about another month or time."""
    kind = turn.state["kind"]
    if kind in ("day", "in_days"):
        step = turn.state["step"]
        if draw.rng.random() < 0.5 and kind == "day":
            other = draw.rng.randrange(7)
            return _day(draw, other, step, WHAT_ABOUT[draw.language], "x")
        day = (turn.state["day"] + (1 if step == "after" else -1)) % 7
        return draw.turn(
            NAME,
            NEXT_STEP[step][draw.language],
            {},
            WEEKDAYS[draw.language][day],
            follows=True,
            kind="day",
            day=day,
            step=step,
        )
    if kind == "days_in":
        month = draw.rng.randrange(12)
        return draw.turn(
            NAME,
            WHAT_ABOUT[draw.language],
            {"x": _month_name(month, draw)},
            str(DAYS_OF_MONTH[month]),
            follows=True,
            kind="days_in",
        )
    return None


def _day(draw: Draw, day: int, step: str, patterns: tuple[str, ...] | None = None, name: str = "d") -> Turn:
    answer_day = (day + (1 if step == "after" else -1)) % 7
    values = {name: _weekday(day, draw)}
    return draw.turn(
        NAME,
        patterns or STEP[step][draw.language],
        values,
        WEEKDAYS[draw.language][answer_day],
        follows=patterns is not None,
        kind="day",
        day=answer_day,
        step=step,
    )


def _month(draw: Draw, month: int, kind: str) -> Turn:
    name = _month_name(month, draw)
    if kind == "days_in":
        return draw.turn(NAME, DAYS_IN[draw.language], {"m": name}, str(DAYS_OF_MONTH[month]), kind=kind)
    if kind == "ordinal":
        values = {"o": ORDINALS[month], "k": month + 1}
        return draw.turn(NAME, ORDINAL[draw.language], values, MONTHS[draw.language][month], kind=kind)
    step = draw.rng.choice(("after", "before"))
    answer = MONTHS[draw.language][(month + (1 if step == "after" else -1)) % 12]
    return draw.turn(NAME, MONTH_STEP[step][draw.language], {"m": name}, answer, kind=kind)


def _clock(draw: Draw, hour: int, hours: int) -> Turn:
    result = (hour + hours - 1) % 12 + 1
    if draw.language == "en":
        shown, answer = draw.rng.choice((f"{hour} o'clock", f"{hour}:00", f"{hour}")), f"{result} o'clock"
    else:
        shown, answer = draw.rng.choice((f"{hour}点", f"{hour}点钟", f"{hour}:00")), f"{result}点"
    return draw.turn(NAME, CLOCK[draw.language], {"t": shown, "h": hours}, answer, kind="clock")


def _half(draw: Draw, hour: int, kind: str) -> Turn:
    """A time in words, such as half past three, in digits."""
    before = hour - 1 or 12
    times = {"half": f"{hour}:30", "past": f"{hour}:15", "to": f"{before}:45"}
    if draw.language == "en":
        word = numerals.english(hour)
        phrases = {"half": f"half past {word}", "past": f"quarter past {word}", "to": f"quarter to {word}"}
    else:
        word, earlier = (_chinese_hour(number) for number in (hour, before))
        phrases = {"half": f"{word}点半", "past": f"{word}点一刻", "to": f"{earlier}点三刻"}
    return draw.turn(NAME, HALF[draw.language], {"p": phrases[kind]}, times[kind], kind="half")


def _chinese_hour(hour: int) -> str:
    return "两" if hour == 2 else numerals.chinese(hour)


def _weekday(day: int, draw: Draw) -> str:
    if draw.language == "en":
        return WEEKDAYS["en"][day] if draw.rng.random() < 0.7 else WEEKDAYS["en"][day].lower()
    name = WEEKDAYS["zh"][day]
    return draw.rng.choice(
        (name, name, name.replace("星期", "周"), name.replace("星期", "礼拜") if day < 6 else "星期天")
    )


def _month_name(month: int, draw: Draw) -> str:
    if draw.language == "en":
        return MONTHS["en"][month] if draw.rng.random() < 0.7 else MONTHS["en"][month].lower()
    return draw.rng.choice((MONTHS["zh"][month], f"{month + 1}月"))
