"""Prefix tuning (arXiv:2101.00190; p-tuning v2 is the same): learned keys and values precede the text in each layer."""

from typing import Any

from pydantic import BaseModel, Field

from tasks.training.adapters import task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """How long the learned prefix is."""

    num_virtual_tokens: int = Field(16, ge=1)


def attach(model: Any, params: Params) -> Any:
    """Keys and values for `num_virtual_tokens` in each layer, trained directly."""
    from peft import PrefixTuningConfig, get_peft_model

    config = PrefixTuningConfig(task_type=task_type(model), num_virtual_tokens=params.num_virtual_tokens)
    return get_peft_model(model, config)
