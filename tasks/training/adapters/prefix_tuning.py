"""Prefix tuning (arXiv:2101.00190): learned keys and values in front of the text in every layer.

P-tuning v2 (arXiv:2110.07602) is the same method.
"""

from typing import Any

from pydantic import BaseModel, Field

from tasks.training.adapters import task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """The length of the prefix."""

    num_virtual_tokens: int = Field(16, ge=1, description="Length of the prefix, in tokens.")


def attach(model: Any, params: Params) -> Any:
    """Add keys and values of `num_virtual_tokens` tokens to each layer; they are trained directly."""
    from peft import PrefixTuningConfig, get_peft_model

    config = PrefixTuningConfig(task_type=task_type(model), num_virtual_tokens=params.num_virtual_tokens)
    return get_peft_model(model, config)
