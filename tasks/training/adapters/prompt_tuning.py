"""Prompt tuning (arXiv:2104.08691): learned embeddings in front of the text; nothing else is trained."""

from typing import Any

from pydantic import BaseModel, Field

from tasks.training.adapters import task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """The length of the soft prompt."""

    num_virtual_tokens: int = Field(16, ge=1, description="Length of the soft prompt, in tokens.")


def attach(model: Any, params: Params) -> Any:
    """Add virtual tokens whose first values are random rows of the embedding."""
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type=task_type(model), num_virtual_tokens=params.num_virtual_tokens)
    return get_peft_model(model, config)
