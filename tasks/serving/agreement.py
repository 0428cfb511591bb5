"""Krippendorff's alpha: how much annotators agree beyond chance (Krippendorff 2011, "Computing alpha-reliability")."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal


def alpha(units: Sequence[Sequence[float]], kind: Literal["nominal", "interval"] = "nominal") -> float | None:
    """Alpha of the values that different annotators gave to the same unit; None where it is not defined.

    1: perfect agreement; 0: as by chance. A unit with fewer than two values is not used.
    """
    pairable = [unit for unit in units if len(unit) > 1]
    counts = Counter(value for unit in pairable for value in unit)
    total = sum(counts.values())
    if total < 2 or len(counts) < 2:
        return None
    observed = sum(
        _distance(one, other, kind) / (len(unit) - 1)
        for unit in pairable
        for i, one in enumerate(unit)
        for j, other in enumerate(unit)
        if i != j
    )
    expected = sum(counts[one] * counts[other] * _distance(one, other, kind) for one in counts for other in counts) / (
        total - 1
    )
    return 1 - observed / expected


def _distance(one: float, other: float, kind: str) -> float:
    return float(one != other) if kind == "nominal" else (one - other) ** 2


def pair_values(rankings: Mapping[str, Sequence[Sequence[float]]]) -> list[list[float]]:
    """The units of rankings: for each item and each pair of its answers, what every annotator says (-1, 0 or 1).

    rankings: item -> for each annotator the rank of every answer, 0 is the best.
    """
    units = []
    for ranks in rankings.values():
        for i in range(len(ranks[0])):
            for j in range(i):
                units.append([float((rank[i] > rank[j]) - (rank[i] < rank[j])) for rank in ranks])
    return units
