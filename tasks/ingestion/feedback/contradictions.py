"""Votes that are probably wrong, given how others have voted about the same answers: mistakes and poisoned votes.

The probability that a vote is right is computed by naive Bayes, as in the model of Dawid and Skene (1979) with one
accuracy per annotator: the log-odds of its annotator, plus those of all who agree, minus those of all who do not. The
log-odds of an annotator who contradicts the others more often than not are negative, so that accounts with few votes,
none of which others confirm, are noticed before they have enough votes to be judged by themselves.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.ingestion.feedback.annotators import Annotator, vote_weight
from tasks.ingestion.feedback.votes import Key, Vote

AGAINST_OTHERS, OF_ATTACKER = "contradicts the other annotators", "its annotator votes against the others"


@dataclass(frozen=True, slots=True)
class Flag:
    """Why a vote is suspicious; probability: that it is right."""

    reason: str
    probability: float


def flags(votes: Sequence[Vote], annotators: Mapping[str, Annotator], max_probability: float) -> dict[int, Flag]:
    """The flagged votes by their index. A vote that nobody else has confirmed or contradicted is never flagged."""
    by_pair: dict[Key, list[int]] = defaultdict(list)
    for index, vote in enumerate(votes):
        by_pair[vote.key].append(index)
    flagged: dict[int, Flag] = {}
    for indices in by_pair.values():
        for index in indices:
            vote, annotator = votes[index], annotators[votes[index].row.annotator]
            others = [votes[other] for other in indices if votes[other].row.annotator != vote.row.annotator]
            balance = sum(
                _weight(other, annotators) * (1 if other.chosen == vote.chosen else -1)
                for other in others
                if not annotators[other.row.annotator].problem
            )
            probability = 1 / (1 + math.exp(-(annotator.log_odds + balance)))
            if annotator.is_against_others:
                flagged[index] = Flag(OF_ATTACKER, probability)
            elif others and balance <= 0 and probability < max_probability:
                flagged[index] = Flag(AGAINST_OTHERS, probability)
    return flagged


def _weight(vote: Vote, annotators: Mapping[str, Annotator]) -> float:
    return vote_weight(vote, annotators[vote.row.annotator])
