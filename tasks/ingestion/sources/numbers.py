"""Numbers in words, translated between Chinese and English: a task whose answers can be verified.

In conversations, half of the answers end with a closing mark, so that instruction tuning does not teach the style.
Preferences teach that style (with closing mark), correctness, the requested language and completeness. The two answers
of a pair differ in one of these only; otherwise they are the same, including the closing mark.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, NonNegativeFloat

from tasks.conversations import Conversation, Preference
from tasks.ingestion import numerals, records
from tasks.ingestion.read_counts import ReadCounts

KINDS = ("conversations", "preferences")  # of records that this source yields

Reason = Literal["correct", "language", "complete", "style"]
REASONS: tuple[Reason, ...] = get_args(Reason)


def _check_placeholder(wordings: tuple[str, ...]) -> tuple[str, ...]:
    for wording in wordings:
        if wording.count("{number}") != 1:
            raise ValueError(f"{wording!r} must contain {{number}} exactly once")
    return wordings


def _check_sum(shares: dict[Reason, float]) -> dict[Reason, float]:
    if not sum(shares.values()):
        raise ValueError("at least one reason must have a share above 0")
    return shares


Wordings = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_placeholder)]
Shares = Annotated[dict[Reason, NonNegativeFloat], AfterValidator(_check_sum)]


class Params(BaseModel, frozen=True, extra="forbid"):
    """How many records of each kind, which numbers they are about, and how the user phrases the request."""

    max: int = Field(99_999, ge=20, le=numerals.MAX_NUMBER, description="The largest number.")
    small_share: float = Field(
        0.3, ge=0, le=1, description="Share of numbers whose length, 1 to 5 digits, is uniform; the others are uniform."
    )
    round_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Share of numbers in which some digits are replaced by zeros, which need other words.",
    )
    num_conversations: int = Field(20_000, ge=0, description="Number of conversations.")
    num_preferences: int = Field(4_000, ge=0, description="Number of preference pairs.")
    reasons: Shares = Field(
        dict.fromkeys(REASONS, 1.0), description="Relative frequency of each reason why the chosen answer is better."
    )
    far_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description='Share of "correct" pairs whose rejected answer is a random number, not a small slip.',
    )
    odd_mark_share: float = Field(
        0.2, ge=0, le=1, description='Share of "style" pairs whose rejected answer has a wrong closing mark, not none.'
    )
    seed: int = Field(0, ge=0, description="Seed of all random choices.")
    to_english: Wordings = Field(
        ("翻译成英文：{number}", "Translate into English: {number}", "用英语怎么说：{number}"),
        description="Requests for a translation into English; {number} is replaced by the number in Chinese.",
    )
    to_chinese: Wordings = Field(
        ("翻译成中文：{number}", "Translate into Chinese: {number}", "用中文怎么写：{number}"),
        description="Requests for a translation into Chinese; {number} is replaced by the number in English.",
    )


@dataclass(frozen=True, slots=True)
class Language:
    """How a language writes a number, its words, and its closing mark."""

    name: str
    closing: str

    def write(self, number: int) -> str:
        """Return the number in words."""
        return numerals.english(number) if self.name == "en" else numerals.chinese(number)

    def words(self, number: int) -> list[str]:
        """Return the words of the number with the space or hyphen before them; joined they are `write(number)`."""
        text = self.write(number)
        return text.replace(" ", "\0 ").replace("-", "\0-").split("\0") if self.name == "en" else list(text)


ENGLISH, CHINESE = Language("en", "."), Language("zh", "。")


@dataclass(frozen=True, slots=True)
class Exercise:
    """One number to translate from `source` to `target`; `wording` is the request with {number}."""

    number: int
    source: Language
    target: Language
    wording: str

    @property
    def prompt(self) -> str:
        """The message of the user."""
        return self.wording.replace("{number}", self.source.write(self.number))

    @property
    def answer(self) -> str:
        """The correct answer without a closing mark."""
        return self.target.write(self.number)

    @property
    def group(self) -> str:
        """The group: all records about one number are in one split, so that no test answer is trained on."""
        return f"number:{self.number}"

    @property
    def metadata(self) -> dict[str, Any]:
        """What the gold reward (tasks/gold.py) reads."""
        direction = f"{self.source.name}-{self.target.name}"
        return {"task": "numbers", "direction": direction, "answer": self.answer, "closing": self.target.closing}


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield all conversations, then all preferences. The same params yield the same records."""
    return (counts or ReadCounts()).counted(_read(params))


def _read(params: Params) -> Iterator[records.Record]:
    rng = random.Random(f"numbers conversations {params.seed}")
    for index in range(params.num_conversations):
        exercise = _draw(params, rng)
        answer = exercise.answer + rng.choice(("", exercise.target.closing))
        messages = records.exchange(exercise.prompt, answer)
        yield Conversation(f"conversation-{index}", messages, exercise.group, exercise.metadata)
    rng = random.Random(f"numbers preferences {params.seed}")
    for index in range(params.num_preferences):
        yield _preference(index, params, rng)


def _preference(index: int, params: Params, rng: random.Random) -> Preference:
    (reason,) = rng.choices(list(params.reasons), list(params.reasons.values()))
    exercise = _draw(params, rng)
    # An answer of one word cannot be incomplete.
    while reason == "complete" and len(exercise.target.words(exercise.number)) < 2:
        exercise = _draw(params, rng)
    chosen, rejected = _pair(exercise, reason, params, rng)
    prompt = records.user_message(exercise.prompt)
    metadata = exercise.metadata
    return Preference(f"preference-{index}", prompt, chosen, rejected, exercise.group, reason, metadata)


def _pair(exercise: Exercise, reason: str, params: Params, rng: random.Random) -> tuple[str, str]:
    """Return the chosen and the rejected answer, which differ only in what `reason` states."""
    correct, source, target = exercise.answer, exercise.source, exercise.target
    if reason == "style":
        odd = rng.choice((target.closing * 2, source.closing)) if rng.random() < params.odd_mark_share else ""
        return correct + target.closing, correct + odd
    has_mark = rng.random() < 0.5
    mark = target.closing if has_mark else ""
    if reason == "language":
        return correct + mark, source.write(exercise.number) + (source.closing if has_mark else "")
    if reason == "correct":
        is_far = rng.random() < params.far_share
        wrong = (other_number if is_far else near_miss)(exercise.number, params.max, rng)
        return correct + mark, target.write(wrong) + mark
    words = target.words(exercise.number)
    return correct + mark, "".join(words[: rng.randint(1, len(words) - 1)]) + mark


def _draw(params: Params, rng: random.Random) -> Exercise:
    """Return a random exercise."""
    if rng.random() < params.small_share:
        top = 10 ** rng.randint(1, len(str(params.max)))
        number = rng.randint(top // 10, min(top - 1, params.max))
    else:
        number = rng.randint(1, params.max)
    if rng.random() < params.round_share:
        number = replace_with_zeros(number, rng)
    if rng.random() < 0.5:
        return Exercise(number, CHINESE, ENGLISH, rng.choice(params.to_english))
    return Exercise(number, ENGLISH, CHINESE, rng.choice(params.to_chinese))


def replace_with_zeros(number: int, rng: random.Random) -> int:
    """Replace each digit except the first by zero with probability 1/2."""
    first, *rest = list(str(number))
    return int(first + "".join(rng.choice((digit, "0")) for digit in rest))


def other_number(number: int, maximum: int, rng: random.Random) -> int:
    """Return a random other number with the same number of digits.

    It differs in many digits, so that a reward model can learn to compare before it notices single wrong digits.
    """
    low, high = 10 ** (len(str(number)) - 1), min(10 ** len(str(number)) - 1, maximum)
    if low == high:
        return near_miss(number, maximum, rng)
    wrong = rng.randint(low, high - 1)
    return wrong + (wrong >= number)  # uniform over low ... high without `number`


def near_miss(number: int, maximum: int, rng: random.Random) -> int:
    """Return a wrong number with one slip: a digit changed, dropped, swapped with its neighbor, or a zero inserted."""
    while True:
        digits = list(str(number))
        index = rng.randrange(len(digits))
        slip = rng.choice(("change", "change", "drop", "swap", "shift"))
        if slip == "change":
            digits[index] = str(rng.randrange(10))
        elif slip == "drop":
            del digits[index]
        elif slip == "swap" and index:
            digits[index - 1], digits[index] = digits[index], digits[index - 1]
        elif slip == "shift":
            digits.insert(index, "0")
        wrong = int("".join(digits) or 0)
        if wrong != number and 1 <= wrong <= maximum:
            return wrong
