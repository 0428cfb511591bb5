"""How a model is run: the fast methods, which assume equivalences, or slower ones, which need fewer of them.

The self-check (self_check.py) chooses the methods of each model and stores them on it; without a choice, all are fast.
"""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from tasks import peft
from tasks.causal.masks import NAME

Packing = Literal["auto", "rows", "none"]
Loss = Literal["auto", "chunked", "model"]
Pairs = Literal["auto", "shared", "separate"]
Generation = Literal["auto", "cached", "model"]


class PackingParams(BaseModel, frozen=True):
    """How a stage that trains on packed rows runs its model."""

    packing: Packing = Field(
        "auto", description="How the model reads packed documents: rows (a whole row in one pass), none (each document "
        "by itself, padded), or auto: rows if the self-check finds no difference between the two, else none.",
    )  # fmt: skip
    loss: Loss = Field(
        "auto", description="How the loss is computed: chunked (the head is applied to some positions at a time), "
        "model (all logits by the model's own forward pass), or auto: chunked if the self-check finds no difference.",
    )  # fmt: skip


class PairsParams(BaseModel, frozen=True):
    """How a stage that compares answers to one prompt runs its model."""

    pairs: Pairs = Field(
        "auto", description="How the model reads several answers to one prompt: shared (one row, in which the prompt "
        "occurs once), separate (a row for each answer), or auto: shared if the self-check finds no difference.",
    )  # fmt: skip


class GenerationParams(BaseModel, frozen=True):
    """How a stage that generates answers runs its model."""

    generation: Generation = Field(
        "auto", description="How answers are generated: cached (prompts of different lengths in one batch), model (by "
        "the model's own `generate`, prompts of one length at a time), or auto: cached if the self-check finds no "
        "difference.",
    )  # fmt: skip


@dataclass(frozen=True)
class Methods:
    """The methods of one model.

    attention: the implementation of attention, by its name in transformers. equal_lengths: whether texts are never
    padded, because the length of a row changes what the model computes (rotary positions of the kind longrope).
    one_prompt: whether the model's own `generate` gets one prompt at a time (the state of RWKV mixes rows).
    """

    attention: str = NAME
    packing: Literal["rows", "none"] = "rows"
    loss: Literal["chunked", "model"] = "chunked"
    pairs: Literal["shared", "separate"] = "shared"
    generation: Literal["cached", "model"] = "cached"
    equal_lengths: bool = False
    one_prompt: bool = False


FAST = Methods()


def of(model: Any) -> Methods:
    """The methods that were chosen for `model`."""
    chosen: Methods = getattr(peft.base_model(model), "_athanor_methods", FAST)
    return chosen


def choose(model: Any, methods: Methods) -> None:
    """Store the methods of `model`."""
    peft.base_model(model)._athanor_methods = methods
