"""The settings that every training stage has, and the device that they select."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from tasks.errors import BadParams
from tasks.kept_shares import KeptShareParams
from tasks.training.loop import optimizers, rates, schedules
from tasks.training.parallel import strategies
from tasks.training.parallel.precision import Precision

Device = Literal["auto", "cpu", "cuda"]


class LoopParams(KeptShareParams, frozen=True, extra="forbid"):
    """Settings of the training loop; the Params of a stage inherit them."""

    seed: int = Field(0, ge=0, description="Seed of the batch order and of dropout.")
    steps: int = Field(1000, ge=0, description="Number of optimizer updates; 0 keeps the model of `base` as it is.")
    many_epochs: float = Field(
        16,
        gt=0,
        description="Number of epochs beyond which a warning is given: repeated data are nearly as good as new ones up "
        "to about 4 epochs, and hardly help beyond 16 (arXiv:2305.16264).",
    )
    from_scratch: rates.FromScratch | None = Field(
        None,
        description="Settings of the optimizer for weights that this pipeline has trained from random ones; those of "
        "the section itself have priority. Weights that descend from a trained base get AdamW and published rates.",
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        description="Peak learning rate, reached after the warm-up. If it is not stated, weights that descend from a "
        "trained base get a published rate by their number, and ten times of it with an adapter.",
    )
    embedding_learning_rate: float | None = Field(
        None, gt=0, description="Learning rate of embeddings and head; null uses learning_rate."
    )
    schedule: schedules.Name = Field("cosine", description="Shape of the learning rate after the warm-up.")
    warmup_steps: int | None = Field(
        None, ge=0, description="Steps in which the learning rate rises linearly from zero; null is 50, or half of a "
        "run of less than 100 steps.",
    )  # fmt: skip
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="Final learning rate as a share of the peak.")
    optimizer: optimizers.Name = Field(
        "adamw", description="muon updates the matrices of the blocks by Muon and the rest by AdamW."
    )
    betas: tuple[float, float] = Field((0.9, 0.95), description="Decay rates of AdamW's two moments.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay of matrices; vectors have none.")
    max_gradient_norm: float = Field(1.0, gt=0, description="Gradients with a larger 2-norm are scaled down to it.")
    max_spike: float | None = Field(
        10.0,
        gt=1,
        description="Skip a step whose gradient norm exceeds this multiple of the recent median; null disables it.",
    )
    precision: Precision = Field("auto", description="Number format of matrix products; auto is bf16 where it is fast.")
    save_dtype: Literal["base", "float32", "bfloat16", "float16"] = Field(
        "base", description="Number format of the weights in the saved folder: base is that of the base model, and "
        "float32 without one.",
    )  # fmt: skip
    device: Device = Field("auto", description="auto uses the GPU where there is one.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward pass: less memory, about a third more time."
    )
    deterministic: bool = Field(
        True, description="Use kernels on a GPU that give the same bytes in every run; they are a little slower."
    )
    launch: strategies.Launch = Field(
        default_factory=lambda: strategies.Launch.model_validate({}),
        description="Number of processes that train the stage together, and how they share the work.",
    )
    num_threads: int | None = Field(None, ge=1, description="Number of torch threads; null leaves the choice to torch.")
    log_every: int = Field(10, ge=1, description="Steps between two rows of the step log.")
    evaluate_every: int | None = Field(
        None, ge=1, description="Steps between two evaluations; null evaluates after the last step only."
    )
    evaluate_first: bool = Field(
        False,
        description="Evaluate before the first step. If it is not stated, pretrain, sft and reward do so with a "
        "trained base.",
    )
    may_end_worse: bool = Field(
        False,
        description="Whether a stage that evaluates before its first step may end with a higher validation loss. "
        "Otherwise it ends with exit code 6, after everything is written.",
    )
    keep_best: bool = Field(False, description="Return the weights with the lowest validation_loss, not the last ones.")
    checkpoint_every: int | None = Field(
        None, ge=1, description="Steps between two checkpoints; null spends at most 1 % of the time on them."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Number of checkpoints that are kept on disk during a run.")

    @model_validator(mode="before")
    @classmethod
    def _apply_from_scratch(cls, section: Any) -> Any:
        return rates.apply_from_scratch(section)

    @property
    def num_warmup_steps(self) -> int:
        """`warmup_steps`, or its default for a run of this length."""
        return min(50, self.steps // 2) if self.warmup_steps is None else self.warmup_steps


def resolve_device(name: Device) -> torch.device:
    """The device for `name`; "auto" is the GPU where there is one. Raises BadParams for "cuda" without a GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BadParams("device is cuda, but torch sees no GPU on this machine; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
