"""A simulated crowd for tests, benchmark and demonstrations: annotators who vote by a verifiable measure, with errors.

The caller's measure, such as the gold reward (tasks/gold.py), decides which answer is better. A member errs, prefers
long answers or one side of the page, votes at random, or poisons: it votes for the worse answer on purpose.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Measure = Callable[[str], float]  # of the text of an answer


@dataclass(frozen=True, slots=True)
class Member:
    """An annotator. All shares are probabilities from 0 to 1.

    flip_share: of votes for the worse answer by mistake. first_share: of votes for the answer that is shown first,
    whatever it is. length_share: of votes for the longer answer, whatever it is. poison_share: of votes for the worse
    answer on purpose. weight: how often it votes compared to others. A member that flips half of its
    votes is at chance level.
    """

    name: str
    flip_share: float = 0.1
    first_share: float = 0.0
    length_share: float = 0.0
    poison_share: float = 0.0
    weight: float = 1.0

    @property
    def is_bad(self) -> bool:
        """Whether this member is at chance level or one-sided, so that its votes should not be used."""
        return self.flip_share >= 0.5 or self.first_share > 0.8


@dataclass
class Crowd:
    """Members who vote in turn.

    The ids of their votes: poisoned are for the worse answer on purpose, mistaken are so by mistake, and right are for
    the better answer, for whatever reason.
    """

    members: Sequence[Member]
    seed: int = 0
    poisoned: set[str] = field(default_factory=set)
    mistaken: set[str] = field(default_factory=set)
    right: set[str] = field(default_factory=set)
    _num_votes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def voters(self, count: int) -> list[Member]:
        """Different members for one item, drawn by their weights."""
        keys = {member.name: self._rng.random() ** (1 / member.weight) for member in self.members}
        return sorted(self.members, key=lambda member: -keys[member.name])[:count]  # Efraimidis and Spirakis (2006)

    def compare(
        self,
        member: Member,
        prompt: Sequence[Mapping[str, str]],
        answers: Sequence[Mapping[str, Any]],
        measure: Measure,
        conversation: str = "",
    ) -> dict[str, Any]:
        """The record of a vote about two answers, in a random order; a tie if the measure is equal."""
        number = self._votes(member)
        self._num_votes[member.name] = number + 1
        order = self._rng.sample([0, 1], 2)
        texts = [str(answer["text"]) for answer in answers]
        values = [measure(text) for text in texts]
        identifier = f"{member.name}-{self.seed}-{number}"
        choice = self._choice(member, identifier, texts, values, order)
        if isinstance(choice, int) and values[choice] > values[1 - choice]:
            self.right.add(identifier)
        return {
            "id": identifier, "action": "comparison", "annotator": member.name, "conversation": conversation,
            "prompt": list(prompt), "answers": list(answers), "order": order,
            "choice": choice,
        }  # fmt: skip

    def _choice(
        self, member: Member, identifier: str, texts: Sequence[str], values: Sequence[float], order: Sequence[int]
    ) -> int | str:
        if self._rng.random() < member.first_share:
            return order[0]
        if self._rng.random() < member.length_share and len(texts[0]) != len(texts[1]):
            return int(len(texts[1]) > len(texts[0]))
        if values[0] == values[1]:
            return self._rng.choice(order) if member.flip_share >= 0.5 else "tie"
        better = int(values[1] > values[0])
        if self._rng.random() < member.poison_share:
            self.poisoned.add(identifier)
            return 1 - better
        if self._rng.random() < member.flip_share:
            self.mistaken.add(identifier)
            return 1 - better
        return better

    def _votes(self, member: Member) -> int:
        return self._num_votes.get(member.name, 0)
