"""One question with its answer, and what a skill draws it with."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tasks.ingestion.skills import wording

HELD_OUT_SHARE = 0.1  # of the values of a skill: the test split asks about them, the others never do
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Turn:
    """A question, its answer without a closing mark, and what a follow-up needs to know about them.

    `state` holds the values of the question (numbers, words ...); `is_follow_up` says that the question cannot be
    understood without the turn before it.
    """

    skill: str
    language: str
    question: str
    answer: str
    unseen_wording: bool
    state: dict[str, Any] = field(default_factory=dict)
    is_follow_up: bool = False


@dataclass(frozen=True, slots=True)
class Draw:
    """Random choices for one conversation: its language, and whether it belongs to the test split."""

    rng: random.Random
    language: str
    for_test: bool
    bare: bool = False  # the shortest wordings, typed without a mistake: exercises, of which many fit into a row

    def value(self, sample: Callable[[], Value], may_hold_out: Callable[[Value], bool] = lambda value: True) -> Value:
        """A value from `sample`: one that is held out for the test split, any other for the rest.

        Values for which `may_hold_out` is false (the ones that must be known to derive others) belong to both. Where
        no value fits, any value does.
        """
        value = sample()
        for _ in range(60):
            if (is_held_out(value) and may_hold_out(value)) == self.for_test:
                return value
            value = sample()
        return value

    def turn(
        self,
        skill: str,
        patterns: Sequence[str],
        values: dict[str, Any],
        answer: str,
        *,
        follows: bool = False,
        remark: bool = False,
        **state: Any,
    ) -> Turn:
        """A turn of `skill` whose question is one of the `patterns` with `values` in it."""
        remark = remark or follows
        question, unseen = wording.ask(
            patterns, values, self.language, self.rng, for_test=self.for_test, remark=remark, bare=self.bare
        )
        return Turn(skill, self.language, question, answer, unseen, {**values, **state}, follows)


def is_held_out(value: object) -> bool:
    """Whether a value is kept for the test split: a pure function of its text."""
    digest = hashlib.blake2b(f"held out {value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < HELD_OUT_SHARE
