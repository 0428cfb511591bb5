"""Prompt tuning (arXiv:2104.08691): learned embeddings before the text, nothing else is trained."""

from typing import Any

from pydantic import BaseModel, Field

from tasks.training.adapters import task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """How long the learned prompt is."""

    num_virtual_tokens: int = Field(16, ge=1)


def attach(model: Any, params: Params) -> Any:
    """Virtual tokens that begin as random rows of the embedding."""
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type=task_type(model), num_virtual_tokens=params.num_virtual_tokens)
    return get_peft_model(model, config)
