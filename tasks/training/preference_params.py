"""Params that the stages reward, dpo and ppo share, besides those of the training loop."""

from pydantic import Field

from tasks.causal.methods import PairsParams
from tasks.training import adapters
from tasks.training.loop.params import LoopParams


class PreferenceParams(LoopParams, PairsParams, frozen=True):
    """What every stage that learns preferences starts from: a model, token files and, optionally, an adapter."""

    base: str | None = Field(
        None, description="Stage, model folder or hub name of the model to start from; null is the stage sft."
    )
    data: str | None = Field(None, description="Folder of token files to train on; null is data/tokens.")
    max_spike: float | None = Field(
        None, gt=1, description="Skip a step whose gradient norm exceeds this multiple of the recent median; null "
        "disables it. Disabled here because gradients shrink as the pairs are learned.",
    )  # fmt: skip
    adapter: adapters.AdapterParams | None = Field(
        None, description="PEFT method, a file of tasks/training/adapters/, with its params; null trains all weights."
    )


class PairParams(PreferenceParams, frozen=True):
    """The batches of a stage that trains on preference pairs."""

    global_batch_size: int = Field(64, ge=1, description="Pairs per step.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Pairs per forward and backward pass; null is all pairs of the step."
    )
    max_length: int = Field(
        512, ge=2, description="Maximum tokens of a prompt with its answer; pairs with a longer one are not used."
    )
