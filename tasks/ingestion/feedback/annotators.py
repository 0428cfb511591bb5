"""How reliable annotators are: agreement with the others, preference for a side, and the weight of their votes."""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field

from tasks.ingestion.feedback.votes import Key, Vote
from tasks.reports import Score, krippendorff_alpha

PRIOR_AGREEMENT, PRIOR_VOTES = 0.75, 4.0  # of an annotator about whom little is known
CHANCE, AGAINST = "agrees with the others as by chance", "votes against the others"
MIN_BALANCE = 0.25  # of the votes of the others, weighted by how much they have voted, to be a majority
MAX_AGREEMENT = 0.95  # beyond it, a weight would grow without bound


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
        share = (num_agreed + PRIOR_AGREEMENT * PRIOR_VOTES) / (n + PRIOR_VOTES)
        share = min(max(share, 1 - MAX_AGREEMENT), MAX_AGREEMENT)
        return math.log(share / (1 - share))

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
    names = {annotator: f"annotator-{n}" for n, annotator in enumerate(sorted({v.row.annotator for v in votes}), 1)}
    while True:
        remaining = [vote for vote in votes if vote.row.annotator not in excluded]
        judged = {
            annotator: _judge_one(annotator, names[annotator], votes, remaining, params)
            for annotator in names
            if annotator not in excluded
        }
        bad = [annotator for annotator, one in judged.items() if one.problem]
        if not params.exclude or not bad:
            return {annotator: {**judged, **excluded}[annotator] for annotator in names}
        worst = min(bad, key=lambda one: judged[one].agreement.value if judged[one].agreement else 0.0)  # type: ignore[union-attr]
        excluded[worst] = judged[worst]


def _judge_one(
    annotator: str, name: str, votes: Sequence[Vote], remaining: Sequence[Vote], params: AnnotatorParams
) -> Annotator:
    own = [vote for vote in votes if vote.row.annotator == annotator]
    num_votes = Counter(vote.row.annotator for vote in remaining)
    balance: defaultdict[tuple[Key, str], float] = defaultdict(float)
    for vote in remaining:
        if vote.row.annotator != annotator:
            # Otherwise many accounts with one vote each could make the reliable annotators look unreliable.
            weight = num_votes[vote.row.annotator] / (num_votes[vote.row.annotator] + PRIOR_VOTES)
            balance[vote.key, vote.chosen] += weight
            balance[vote.key, vote.rejected] -= weight
    decided = [vote for vote in own if abs(balance[vote.key, vote.chosen]) >= MIN_BALANCE]
    num_agreed = sum(balance[vote.key, vote.chosen] > 0 for vote in decided)
    agreement = Score.of_share(num_agreed, len(decided)) if decided else None
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
        if vote.row.annotator not in excluded:
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
