"""A simulated crowd: annotators who vote for the better of two answers, with noise, for a side, or by chance."""

import random
from dataclasses import dataclass
from typing import Any


@dataclass
class Member:
    """accuracy: how often the better answer is chosen; first_share: how often the first one, whatever it is."""

    name: str
    accuracy: float = 0.9
    first_share: float = 0.0


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


def votes(members: list[Member], num_items: int, per_item: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """Votes of randomly chosen members about items, `per_item` for each."""
    rng = random.Random(seed)
    return [vote(rng, member, item) for item in range(num_items) for member in rng.sample(members, per_item)]
