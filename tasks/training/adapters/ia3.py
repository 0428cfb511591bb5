"""IA3 (arXiv:2205.05638): learned scaling factors for keys, values and the MLP; the fewest weights of all adapters."""

from typing import Any

from pydantic import BaseModel

from tasks.training.adapters import has_conv1d, task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """IA3 has no params: peft knows which linear maps are scaled in each kind of model."""


def attach(model: Any, params: Params) -> Any:
    """Add one factor for each output of the scaled linear maps."""
    from peft import IA3Config, get_peft_model

    return get_peft_model(model, IA3Config(task_type=task_type(model), fan_in_fan_out=has_conv1d(model)))
