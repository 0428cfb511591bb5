"""How reliable annotators are: agreement with the others, preference for a side, and the weight of their votes."""

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from tasks.ingestion.feedback.votes import Key, PairVote, Vote
from tasks.reports import Score, krippendorff_alpha

PRIOR_AGREEMENT, PRIOR_VOTES = 0.75, 4.0  # of an annotator about whom little is known
CHANCE, AGAINST = "agrees with the others as by chance", "votes against the others"
MIN_BALANCE = 0.5  # of the weights of the others, to be a majority
NUM_ROUNDS = 20  # of expectation and maximization
FULL_VOTES = 8  # an account with fewer votes counts less about others, so that many new ones cannot discredit them
MAX_AGREEMENT = 0.95  # beyond it, a weight would grow without bound

Floats = NDArray[np.float64]


class AnnotatorParams(BaseModel, frozen=True, extra="forbid"):
    """When the votes of an annotator are not used."""

    exclude: bool = Field(
        True, description="Whether votes of annotators at chance level and of one-sided ones are left out."
    )
    min_shared: int = Field(
        20, ge=1, description="Votes about pairs that others have judged, too, before an annotator can be excluded."
    )
    max_chance_agreement: float = Field(
        0.6, ge=0.5, le=1, description="An annotator who agrees with the others at most this often is at chance level."
    )
    max_side_share: float = Field(
        0.8,
        ge=0.5,
        le=1,
        description="An annotator who surely prefers one side of the page more often than this is one-sided.",
    )
    exclude_flagged: bool = Field(
        True, description="Whether single votes that are probably wrong or poisoned are left out."
    )
    max_flag_probability: float = Field(
        0.35,
        ge=0,
        lt=0.5,
        description="A vote that others contradict is flagged if the probability that it is right is below this.",
    )


@dataclass(frozen=True, slots=True)
class Annotator:
    """name: a pseudonym. agreement: with the majority of the others; side: how often the first answer was chosen."""

    name: str
    num_votes: int
    agreement: Score | None
    side: Score | None
    problem: str  # why the votes are not used; "" if they are

    @property
    def log_odds(self) -> float:
        """The log-odds that a vote is right; negative for an annotator whom others contradict more often than not."""
        n = self.agreement.n if self.agreement is not None else 0
        num_agreed = self.agreement.value * n if self.agreement is not None else 0.0
        return float(log_odds(np.array(num_agreed), np.array(float(n))))

    @property
    def weight(self) -> float:
        """The log-odds, at least 0, so that the sum over annotators is the best estimate (naive Bayes)."""
        return max(self.log_odds, 0.0)

    @property
    def is_against_others(self) -> bool:
        """Whether the others surely contradict this annotator more often than by chance."""
        return self.agreement is not None and self.agreement.high < 0.5


def judge(votes: Sequence[Vote], params: AnnotatorParams) -> dict[str, Annotator]:
    """Every annotator by id. The least reliable one is excluded first, and the others are compared again without it."""
    excluded: dict[str, Annotator] = {}
    annotators = sorted({vote.row.annotator for vote in votes})
    table = _Table(votes, annotators)
    while True:
        is_used = np.array([annotator not in excluded for annotator in annotators], bool)
        by_others = table.balance_of_others(is_used)
        judged = {
            annotator: _judge_one(
                f"annotator-{n + 1}", [votes[i] for i in table.votes_of[n]], by_others[table.votes_of[n]], params
            )
            for n, annotator in enumerate(annotators)
            if annotator not in excluded
        }
        bad = [annotator for annotator, one in judged.items() if one.problem]
        if not params.exclude or not bad:
            return {annotator: {**judged, **excluded}[annotator] for annotator in annotators}
        worst = min(bad, key=lambda one: judged[one].agreement.value if judged[one].agreement else 0.0)  # type: ignore[union-attr]
        excluded[worst] = judged[worst]


class _Table:
    """Votes as arrays. who, key, sign: of each vote its annotator, what it is about, and 1 or -1 for the two texts."""

    def __init__(self, votes: Sequence[Vote], annotators: Sequence[str]) -> None:
        place = {annotator: n for n, annotator in enumerate(annotators)}
        keys = [vote.key for vote in votes]
        number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
        self.who = np.array([place[vote.row.annotator] for vote in votes], np.int64)
        self.key = np.array([number[key] for key in keys], np.int64)
        is_first = [vote.chosen == min(key[1]) for vote, key in zip(votes, keys, strict=True)]
        self.sign = np.where(is_first, 1.0, -1.0)
        self.votes_of: list[list[int]] = [np.flatnonzero(self.who == n).tolist() for n in range(len(annotators))]

    def balance_of_others(self, is_used: NDArray[np.bool_]) -> Floats:
        """For each vote, the weights of the others whose votes are used and who agree, less those who do not."""
        weights = self._reliability(is_used)
        pairs = self.key * len(is_used) + self.who
        places = np.unique(pairs, return_inverse=True)[1]
        own = np.bincount(places, weights[self.who] * self.sign).astype(np.float64)[places]
        return self.sign * (self._balance(weights) - own)

    def _balance(self, weights: Floats) -> Floats:
        """For each vote, the weights for the first text of what it is about, less those for the second one."""
        return np.bincount(self.key, weights[self.who] * self.sign).astype(np.float64)[self.key]

    def _reliability(self, is_used: NDArray[np.bool_]) -> Floats:
        """What a vote of each annotator counts, by expectation and maximization (Dawid and Skene 1979).

        It is the log-odds that the vote is right, and less for accounts with few votes, so that many of them cannot
        discredit the others. At first, all are equally reliable, so that majorities decide: otherwise two accounts that
        vote about everything could discredit all others, three of whom judge each pair. A vote that nobody else
        confirms or contradicts says nothing.
        """
        judges = np.unique(np.stack([self.key, self.who])[:, is_used[self.who]], axis=1)[0]
        is_shared = is_used[self.who] & (np.bincount(judges, minlength=self.key.max(initial=0) + 1)[self.key] > 1)
        num_votes = np.bincount(self.who[is_shared], minlength=len(is_used)).astype(np.float64)
        known = np.where(is_used, np.minimum(num_votes / FULL_VOTES, 1.0), 0.0)
        weights = known * log_odds(0 * known, 0 * known)
        for _ in range(NUM_ROUNDS):
            balance = self.sign * self._balance(weights)
            is_right = 1 / (1 + np.exp(-balance[is_shared]))
            num_right = np.bincount(self.who[is_shared], is_right, minlength=len(is_used)).astype(np.float64)
            weights = known * np.maximum(log_odds(num_right, num_votes), 0)
        return weights


def log_odds(num_right: Floats, num_votes: Floats) -> Floats:
    """The log-odds that a vote is right, of annotators with so many right votes; little is known about a new one."""
    share = (num_right + PRIOR_AGREEMENT * PRIOR_VOTES) / (num_votes + PRIOR_VOTES)
    share = np.clip(share, 1 - MAX_AGREEMENT, MAX_AGREEMENT)
    odds: Floats = np.log(share / (1 - share))
    return odds


def _judge_one(name: str, own: Sequence[Vote], by_others: Floats, params: AnnotatorParams) -> Annotator:
    decided = by_others[np.abs(by_others) >= MIN_BALANCE]
    agreement = Score.of_share(int((decided > 0).sum()), len(decided)) if len(decided) else None
    shown = [vote.was_first for vote in own if vote.was_first is not None]
    side = Score.of_share(sum(shown), len(shown)) if shown else None
    problem = ""
    if agreement and agreement.n >= params.min_shared and agreement.value <= params.max_chance_agreement:
        problem = CHANCE
    if agreement and agreement.high < 0.5:
        problem = AGAINST
    if side and side.low > params.max_side_share:
        problem = "chooses the first answer, whatever it is"
    elif side and side.high < 1 - params.max_side_share:
        problem = "chooses the second answer, whatever it is"
    return Annotator(name, len(own), agreement, side, problem)


def agreement_of_all(votes: Sequence[Vote], excluded: Collection[str] = ()) -> float | None:
    """Krippendorff's alpha of all votes about pairs with at least two annotators."""
    units: dict[Key, dict[str, float]] = defaultdict(dict)
    for vote in votes:
        if isinstance(vote, PairVote) and vote.row.annotator not in excluded:
            units[vote.key][vote.row.annotator] = float(vote.chosen == min(vote.key[1]))
    values = [list(unit.values()) for unit in units.values()]
    # Each pair also counts in the other order of its answers: no order is the right one, and the result must not depend
    # on it.
    return krippendorff_alpha([*values, *([1 - value for value in unit] for unit in values)])


def side_bias(votes: Sequence[Vote]) -> Score | None:
    """The share of comparisons that the answer shown first has won; 0.5 without bias, because the order is random."""
    shown = [vote.was_first for vote in votes if vote.was_first is not None]
    return Score.of_share(sum(shown), len(shown)) if shown else None


def vote_weight(vote: Vote, annotator: Annotator) -> float:
    """What a vote counts: less if it is for the side that its annotator prefers anyway."""
    if vote.was_first is None or annotator.side is None:
        return annotator.weight
    share = (annotator.side.value * annotator.side.n + 5) / (annotator.side.n + 10)  # towards 1/2 where n is small
    return annotator.weight * min(1.0, 0.5 / (share if vote.was_first else 1 - share))


def votes_needed(share: float, power_z: float = 0.8416, level_z: float = 1.96) -> int | None:
    """The votes that show a share against one half (5 % level, 80 % power); None at exactly one half."""
    if share == 0.5:
        return None
    root = level_z * 0.5 + power_z * math.sqrt(share * (1 - share))
    return math.ceil((root / (share - 0.5)) ** 2)
