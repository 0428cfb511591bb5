"""Worse answers to the last question of a conversation, each worse for one stated reason.

The reasons are those that matter in a chat: the answer is right, in the language of the question, complete, and no
longer than needed. It belongs to the conversation. The assistant refuses what it cannot know, and nothing else.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from tasks.ingestion.skills import SKILLS, calendar_time, lists, number_forms, number_words, refusals, small_talk
from tasks.ingestion.skills.turns import Draw, Turn

Reason = Literal["correct", "honest", "helpful", "follows", "language", "complete", "brief"]
REASONS: tuple[Reason, ...] = get_args(Reason)
CLOSING = {"en": ".", "zh": "。"}
SPACE = {"en": " ", "zh": ""}
OTHER = {"en": "zh", "zh": "en"}
MIN_PARTS = 2  # words, or Chinese characters, of an answer that can be cut short


def reject(turns: Sequence[Turn], reason: Reason, draw: Draw) -> str | None:
    """Return an answer to the last of `turns` that is worse for `reason`; None if there is none for this question."""
    turn = turns[-1]
    answer = _REJECT[reason](turns, draw)
    return None if answer is None or answer == _sentence(turn.answer, turn.language) else answer


def _sentence(answer: str, language: str) -> str:
    return answer + CLOSING[language]


def _correct(turns: Sequence[Turn], draw: Draw) -> str | None:
    """The same kind of answer with one mistake."""
    turn = turns[-1]
    if turn.skill == refusals.NAME:
        return None
    wrong = _mistake(turn, draw)
    return None if wrong is None else _sentence(wrong, turn.language)


def _honest(turns: Sequence[Turn], draw: Draw) -> str | None:
    """An invented answer to a question that must be refused."""
    turn = turns[-1]
    if turn.skill != refusals.NAME:
        return None
    return _sentence(invented_answer(turn.language, draw), turn.language)


def invented_answer(language: str, draw: Draw) -> str:
    """The answer to a question that nobody has asked."""
    name = draw.rng.choice([name for name in SKILLS if name != refusals.NAME])
    return _other_turn(name, language, draw).answer


def _helpful(turns: Sequence[Turn], draw: Draw) -> str | None:
    """A refusal of a question that can be answered."""
    turn = turns[-1]
    return None if turn.skill == refusals.NAME else _sentence(refusals.ANSWER[turn.language], turn.language)


def _follows(turns: Sequence[Turn], draw: Draw) -> str | None:
    """The previous answer again, or an answer to another question of the same skill, to a follow-up."""
    turn = turns[-1]
    if not turn.is_follow_up or turn.skill == refusals.NAME:
        return None
    if draw.rng.random() < 0.5:
        return _sentence(turns[-2].answer, turn.language)
    return _sentence(_other_turn(turn.skill, turn.language, draw).answer, turn.language)


def _language(turns: Sequence[Turn], draw: Draw) -> str | None:
    """The right answer in the other language, where the answer depends on the language."""
    turn = turns[-1]
    other = OTHER[turn.language]
    if turn.skill == refusals.NAME:
        return _sentence(refusals.ANSWER[other], other)
    if turn.skill == small_talk.NAME:
        return _sentence(small_talk.TOPICS[turn.state["topic"]][other][1], other)
    if turn.skill == number_words.NAME and turn.state["target"] in OTHER:
        return _sentence(number_words.write_in_form(turn.state["number"], OTHER[turn.state["target"]]), turn.language)
    for names in (calendar_time.WEEKDAYS, calendar_time.MONTHS):
        if turn.answer in names[turn.language]:
            return _sentence(names[other][names[turn.language].index(turn.answer)], other)
    return None


def _complete(turns: Sequence[Turn], draw: Draw) -> str | None:
    """The first part of the right answer."""
    turn = turns[-1]
    parts = turn.answer.split(" ") if " " in turn.answer else list(turn.answer)
    if len(parts) < MIN_PARTS:
        return None
    return (" " if " " in turn.answer else "").join(parts[: draw.rng.randint(1, len(parts) - 1)])


def _brief(turns: Sequence[Turn], draw: Draw) -> str | None:
    """The right answer, and a sentence that nobody has asked for."""
    turn = turns[-1]
    other = turn if draw.rng.random() < 0.5 else _other_turn(draw.rng.choice(list(SKILLS)), turn.language, draw)
    return SPACE[turn.language].join(_sentence(each.answer, turn.language) for each in (turn, other))


_REJECT: dict[Reason, Callable[[Sequence[Turn], Draw], str | None]] = {
    "correct": _correct, "honest": _honest, "helpful": _helpful, "follows": _follows, "language": _language,
    "complete": _complete, "brief": _brief,
}  # fmt: skip


def _other_turn(name: str, language: str, draw: Draw) -> Turn:
    turn: Turn = SKILLS[name].draw_turn(Draw(draw.rng, language, draw.for_test))
    return turn


def _mistake(turn: Turn, draw: Draw) -> str | None:
    """The answer with one mistake of the kind that a model makes; None if the answer has no such form."""
    answer, rng = turn.answer, draw.rng
    if turn.skill == small_talk.NAME:
        topic = rng.choice([topic for topic in small_talk.TOPICS if topic != turn.state["topic"]])
        wrong: str = small_talk.TOPICS[topic][turn.language][1]
        return wrong
    if turn.skill == lists.NAME and len(items := re.split("(, |，)", answer)) > 1:
        first = 2 * rng.randrange(len(items) // 2)
        if rng.random() < 0.5:
            return "".join(items[:first] + items[first + 2 :])
        items[first], items[first + 2] = items[first + 2], items[first]
        return "".join(items)
    for names in (calendar_time.WEEKDAYS, calendar_time.MONTHS):
        if answer in names[turn.language]:
            return rng.choice([name for name in names[turn.language] if name != answer])
    if number := list(re.finditer(r"\d+", answer)):
        last = number[-1]
        return f"{answer[: last.start()]}{_near(int(last[0]), draw)}{answer[last.end() :]}"
    for key, language in (("result", turn.language), ("number", str(turn.state.get("target")))):
        if key in turn.state and language in OTHER:
            right, wrong = (
                number_forms.write_number(value, language) for value in (turn.state[key], _near(turn.state[key], draw))
            )
            return answer.removesuffix(right) + wrong if answer.endswith(right) else None
    if turn.skill == "letters":
        return _other_letters(answer, draw)
    return None


def _other_letters(answer: str, draw: Draw) -> str:
    """A letter or character replaced, or two neighbors swapped."""
    letters = answer.split("-") if "-" in answer else list(answer)
    place = draw.rng.randrange(len(letters))
    if len(letters) > 1 and draw.rng.random() < 0.5:
        place = min(place, len(letters) - 2)
        letters[place], letters[place + 1] = letters[place + 1], letters[place]
    else:
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if answer.isascii() else "山水人大小天月火木花"
        letters[place] = draw.rng.choice([letter for letter in alphabet if letter != letters[place]])
    return ("-" if "-" in answer else "").join(letters)


def _near(number: int, draw: Draw) -> int:
    """Another number with one digit changed, or near by."""
    rng = draw.rng
    digits = list(str(number))
    place = rng.randrange(len(digits))
    digits[place] = rng.choice([digit for digit in "0123456789" if digit != digits[place]])
    near = int("".join(digits))
    return near if rng.random() < 0.6 else abs(number + rng.choice((-10, -2, -1, 1, 2, 10))) or number + 3
