"""The rungs of a ladder: smaller models of the target's shape, each trained for several numbers of tokens.

With the schedule wsd (warm-up, stable, decay; arXiv:2404.06395), runs of different lengths are equal until the shortest
begins to decay. So a longer run continues from the stable part of the shorter one, and one run gives several budgets.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tasks.errors import BadParams

SHARES = (0.7, 0.55, 0.42, 0.33, 0.25)  # of the target's width and layers, from the top rung down
STABLE_SHARE = 0.8  # of the steps after the warm-up, as in tasks/training/loop/schedules.py
DEPTH_UNIT = 16  # widths are multiples of it
MIN_STEPS = 20
MAX_WARMUP_SHARE = 0.25  # of the steps of the shortest run of a rung


class Rung(NamedTuple):
    """One rung: its architecture, its numbers of steps in ascending order, and the warm-up steps of all its runs."""

    name: str
    model: dict[str, int]
    steps: tuple[int, ...]
    warmup: int


def shapes(target: Mapping[str, int], count: int) -> list[dict[str, int]]:
    """`count` different shapes (num_layers, width, num_heads) below `target`, from the largest down.

    Raises BadParams if the target is too small for so many.
    """
    head_dim = target["width"] // target["num_heads"]
    result = list[dict[str, int]]()
    for share in SHARES:
        width = max(DEPTH_UNIT, round(target["width"] * share / DEPTH_UNIT) * DEPTH_UNIT)
        heads = next(n for n in range(max(1, round(width / head_dim)), 0, -1) if width % (2 * n) == 0)
        shape = {"num_layers": max(1, round(target["num_layers"] * share)), "width": width, "num_heads": heads}
        if width < target["width"] and shape not in result:
            result.append(shape)
    if len(result) < count:
        raise BadParams(
            f"--rungs {count}: the target of width {target['width']} has only {len(result)} smaller shapes. Choose a "
            "larger target or fewer rungs."
        )
    return result[:count]


def budgets(tokens: float, tokens_per_step: int, count: int) -> tuple[int, ...]:
    """Numbers of steps for `tokens` tokens and for halves of them, ascending. Raises BadParams if they are too few."""
    steps = sorted(round(tokens / tokens_per_step / 2**i) for i in range(count))
    if steps[0] < MIN_STEPS:
        raise BadParams(
            f"the shortest run of a rung would have {steps[0]} steps, but at least {MIN_STEPS} are needed. Choose a "
            "larger target, fewer --budgets, or a smaller global_batch_size."
        )
    return tuple(steps)


def warmup(target: int, steps: tuple[int, ...]) -> int:
    """The warm-up steps of the runs of a rung: those of the target, or fewer in a short rung."""
    return min(target, int(MAX_WARMUP_SHARE * steps[0]))


def last_stable_step(steps: int, warmup: int) -> int:
    """The number of steps of a wsd run of `steps` steps before its learning rate decays."""
    return warmup + int(STABLE_SHARE * (steps - warmup))


def name(model: Mapping[str, Any]) -> str:
    """A name for a rung, such as l4-w128."""
    return f"l{model['num_layers']}-w{model['width']}"
