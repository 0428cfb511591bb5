"""P-tuning v1 (arXiv:2103.10385): a soft prompt in front of the text, computed by a small network that is trained."""

from typing import Any

from pydantic import BaseModel, Field

from tasks.training.adapters import task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """The sizes of the soft prompt and of the network that computes it."""

    num_virtual_tokens: int = Field(16, ge=1, description="Length of the soft prompt, in tokens.")
    encoder_width: int = Field(128, ge=1, description="Width of the hidden layers of the network.")


def attach(model: Any, params: Params) -> Any:
    """Add virtual tokens that an MLP with three layers computes."""
    from peft import PromptEncoderConfig, get_peft_model

    config = PromptEncoderConfig(
        task_type=task_type(model),
        num_virtual_tokens=params.num_virtual_tokens,
        encoder_hidden_size=params.encoder_width,
    )
    return get_peft_model(model, config)
