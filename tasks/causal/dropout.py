"""Dropout is off where two passes are compared: a policy with its reference, one answer with another."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

RANDOM = re.compile(r"drop|jitter_noise")  # attributes of modules and configs that make a forward pass random


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[bool]:
    """Set all probabilities of dropout in `model` to 0 within the block; yields whether one of them was above 0.

    Eval mode would do the same, but it would also end gradient checkpointing.
    """
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    previous = [item for one in (*model.modules(), *configs.values()) for item in _probabilities(one)]
    for one, key, _ in previous:
        setattr(one, key, 0.0)
    try:
        yield bool(previous)
    finally:
        for one, key, value in previous:
            setattr(one, key, value)


def _probabilities(one: Any) -> list[tuple[Any, str, float]]:
    """(object, attribute, value) of each probability above 0."""
    named = {"p": one.p} if isinstance(one, nn.modules.dropout._DropoutNd) else {}
    named |= {key: value for key, value in vars(one).items() if RANDOM.search(key)}
    return [(one, key, value) for key, value in named.items() if isinstance(value, float) and 0 < value <= 1]
