"""P-tuning v1 (arXiv:2103.10385): embeddings before the text, made by a small network that is trained."""

from typing import Any

from pydantic import BaseModel, Field

from tasks.training.adapters import task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """The learned prompt and the network that makes it."""

    num_virtual_tokens: int = Field(16, ge=1)
    encoder_width: int = Field(128, ge=1)


def attach(model: Any, params: Params) -> Any:
    """Virtual tokens out of a three-layer MLP."""
    from peft import PromptEncoderConfig, get_peft_model

    config = PromptEncoderConfig(
        task_type=task_type(model),
        num_virtual_tokens=params.num_virtual_tokens,
        encoder_hidden_size=params.encoder_width,
    )
    return get_peft_model(model, config)
