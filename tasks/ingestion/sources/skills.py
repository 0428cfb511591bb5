"""Conversations about what a small assistant can really learn, in Chinese and English, with answers that are verified.

Every answer is computed by rules. Values, ranges of numbers and wordings are held out by construction: the test split
asks about values that training never sees, half of the time in wordings that training never uses. A conversation has
one to four exchanges; follow-ups ("and plus five?") need the exchange before them.
"""

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field, NonNegativeFloat

from tasks.conversations import Conversation, Preference
from tasks.ingestion import records
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.skills import SKILLS, number_words, refusals
from tasks.ingestion.skills.rejections import CLOSING, Reason, invented_answer, reject
from tasks.ingestion.skills.turns import Draw, Turn

KINDS = ("conversations", "preferences")  # of records that this source yields

# Relative frequencies, by what each skill needs: answers that are calculated have few trained tokens.
DEFAULT_SHARES = {
    "arithmetic": 5.0, "calendar": 3.5, "letters": 3.0, "lists": 5.0, "number_words": 3.0, "refusal": 4.0,
    "small_talk": 3.5, "units": 1.5,
}  # fmt: skip
EXERCISES = {"arithmetic": 5.5, "lists": 5.5, "letters": 3.0, "number_words": 1.5, "units": 1.5, "calendar": 4.0}
EXERCISE_FOLLOW_UPS = 0.45  # share of the later turns of a row of exercises


REASONS: dict[Reason, float] = {
    "correct": 4.0, "honest": 2.0, "helpful": 2.0, "follows": 1.5, "language": 1.0, "complete": 1.0, "brief": 1.0,
}  # fmt: skip


class Params(BaseModel, frozen=True, extra="forbid"):
    """How many conversations and preferences, how long, how often each skill, and why one answer is better."""

    num_conversations: int = Field(40_000, ge=0, description="Number of conversations in all splits.")
    num_preferences: int = Field(0, ge=0, description="Number of preference pairs in all splits.")
    reasons: dict[Reason, NonNegativeFloat] = Field(
        REASONS, description="Relative frequency of each reason why the chosen answer is better."
    )
    max_turns: int = Field(4, ge=1, le=8, description="Exchanges of one conversation, at most.")
    follow_up_share: float = Field(0.6, ge=0, le=1, description="Share of later turns that need the turn before them.")
    shares: dict[str, NonNegativeFloat] = Field(
        DEFAULT_SHARES, description="How often each skill begins a turn, relative."
    )
    exercise_share: float = Field(
        0.4, ge=0, le=1, description="Share of train conversations that are rows of bare exercises."
    )
    invented_share: float = Field(
        0.0, ge=0, le=1, description="Share of the unanswerable questions of train conversations that are answered "
        "with an invention, as in data of mixed quality: preferences then teach honesty.",
    )  # fmt: skip
    validation_share: float = Field(0.03, ge=0, lt=1, description="Share of conversations for validation.")
    test_share: float = Field(0.05, ge=0, lt=1, description="Share of conversations for the test split.")
    seed: int = Field(0, ge=0, description="Seed of all choices.")


def read(params: Params, counts: ReadCounts | None = None) -> Iterator[records.Record]:
    """Yield all conversations, then all preferences. The same params give the same records."""
    return (counts or ReadCounts()).counted(_read(params))


def _read(params: Params) -> Iterator[records.Record]:
    rng = random.Random(f"skills conversations {params.seed}")
    for index in range(params.num_conversations):
        split = _split(params, rng)
        if split == "train" and rng.random() < params.exercise_share:
            yield _exercises(index, rng)
        else:
            id = f"skills-{index}"
            turns = _turns(split, params, rng)
            invented_share = params.invented_share if split == "train" else 0
            yield Conversation(id, _messages(_invent(turns, invented_share, rng)), id, _metadata(turns), split)
    rng = random.Random(f"skills preferences {params.seed}")
    for index in range(params.num_preferences):
        yield _preference(index, params, rng)


def _split(params: Params, rng: random.Random) -> str:
    place = rng.random()
    if place < params.test_share:
        return "test"
    return "validation" if place < params.test_share + params.validation_share else "train"


def _turns(split: str, params: Params, rng: random.Random) -> list[Turn]:
    draw = Draw(rng, rng.choice(("en", "zh")), split == "test")
    turns = [_first(draw, params)]
    for _ in range(rng.choices(range(params.max_turns), [3, *[1.5] * (params.max_turns - 1)])[0]):
        if rng.random() < 0.06:  # people change the language
            draw = dataclasses.replace(draw, language="zh" if draw.language == "en" else "en")
        turns.append(_next(turns[-1], draw, params))
    return turns


def _invent(turns: list[Turn], share: float, rng: random.Random) -> list[Turn]:
    """The turns, of which a share of the refusals is replaced by answers to other questions."""
    return [
        dataclasses.replace(turn, answer=invented_answer(turn.language, Draw(rng, turn.language, False)))
        if turn.skill == refusals.NAME and rng.random() < share
        else turn
        for turn in turns
    ]


def _messages(turns: list[Turn]) -> list[Any]:
    return [
        message for turn in turns for message in records.exchange(turn.question, turn.answer + CLOSING[turn.language])
    ]


def _preference(index: int, params: Params, rng: random.Random) -> Preference:
    """A pair whose reason is drawn first, and then conversations until one allows this reason."""
    (reason,) = rng.choices(list(params.reasons), list(params.reasons.values()))
    split = _split(params, rng)
    rejected = None
    while rejected is None:
        turns = _turns(split, params, rng)
        rejected = reject(turns, reason, Draw(rng, turns[-1].language, split == "test"))
    *prompt, answer = _messages(turns)
    id = f"skills-preference-{index}"
    return Preference(id, prompt, answer["content"], rejected, id, reason, _metadata(turns), split)


def _exercises(index: int, rng: random.Random) -> Conversation:
    """Many short questions of one skill: answers that take calculation are learned from many of them."""
    draw = Draw(rng, rng.choice(("en", "zh")), False, bare=True)
    (name,) = rng.choices(list(EXERCISES), list(EXERCISES.values()))
    turns = [SKILLS[name].draw_turn(draw)]
    for _ in range(rng.randint(5, 9)):
        follows = SKILLS[turns[-1].skill].follow_up(turns[-1], draw) if rng.random() < EXERCISE_FOLLOW_UPS else None
        turns.append(follows or SKILLS[name].draw_turn(draw))
    id = f"skills-{index}"
    return Conversation(id, _messages(turns), id, _metadata(turns), "train")


def _first(draw: Draw, params: Params) -> Turn:
    (name,) = draw.rng.choices(list(params.shares), list(params.shares.values()))
    turn: Turn = SKILLS[name].draw_turn(draw)
    return turn


def _next(turn: Turn, draw: Draw, params: Params) -> Turn:
    follows: Turn | None = None
    if draw.language == turn.language and draw.rng.random() < params.follow_up_share:
        follows = SKILLS[turn.skill].follow_up(turn, draw)
    return follows or _first(draw, params)


def _metadata(turns: list[Turn]) -> dict[str, Any]:
    """What the gold measure judges the last answer by, and the groups in which results are reported."""
    last = turns[-1]
    number = last.state.get("number") if last.skill == number_words.NAME else None
    held_out_range = {} if number is None else {"held_out_range": number_words.in_held_out_range(number)}
    return {
        **held_out_range,
        "task": "skills",
        "skill": last.skill,
        "language": last.language,
        "turn": len(turns),
        "follow_up": last.is_follow_up,
        "unseen_wording": last.unseen_wording,
        "answer": last.answer,
        "closing": CLOSING[last.language],
    }
