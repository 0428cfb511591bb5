"""A simulated crowd: annotators who judge answers with noise, for a side, by chance, or always in the same way."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Member:
    """accuracy: how often the better answer is chosen; first_share: how often the first one, whatever it is.

    thumb: what all thumbs of this member are; "" if they are right as often as its votes.
    """

    name: str
    accuracy: float = 0.9
    first_share: float = 0.0
    thumb: str = ""


Act = Callable[[random.Random, Member, int], dict[str, Any]]


def vote(rng: random.Random, member: Member, item: int) -> dict[str, Any]:
    """A comparison: answer 0 is the better one, and the order is random."""
    order = rng.sample([0, 1], 2)
    choice = 0 if rng.random() < member.accuracy else 1
    if rng.random() < member.first_share:
        choice = order[0]
    answers = [{"text": f"good {item}", "model": "new"}, {"text": f"bad {item}", "model": "old"}]
    return {
        "id": f"{member.name}-{item}", "action": "comparison", "annotator": member.name, "conversation": f"c{item}",
        "time": f"{item:09}", "prompt": [{"role": "user", "content": f"question {item}"}], "answers": answers,
        "order": order, "choice": choice,
    }  # fmt: skip


def thumb(rng: random.Random, member: Member, item: int) -> dict[str, Any]:
    """A thumb: the answers with even numbers are good, the others are bad."""
    right, wrong = ("good", "bad") if item % 2 == 0 else ("bad", "good")
    choice = member.thumb or (right if rng.random() < member.accuracy else wrong)
    return {
        "id": f"{member.name}-thumb-{item}", "action": "thumb", "annotator": member.name, "conversation": f"t{item}",
        "time": f"{item:09}", "prompt": [{"role": "user", "content": f"task {item}"}],
        "answers": [{"text": f"{right} {item}", "model": "new"}], "choice": choice,
    }  # fmt: skip


def votes(
    members: list[Member], num_items: int, per_item: int = 2, seed: int = 0, act: Act = vote
) -> list[dict[str, Any]]:
    """Votes, or thumbs, of randomly chosen members about items, `per_item` for each."""
    rng = random.Random(seed)
    return [act(rng, member, item) for item in range(num_items) for member in rng.sample(members, per_item)]
