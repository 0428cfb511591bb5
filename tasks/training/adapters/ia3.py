"""IA3 (arXiv:2205.05638): learned factors on keys, values and the MLP's inside; the fewest weights of all."""

from typing import Any

from pydantic import BaseModel

from tasks.training.adapters import is_turned, task_type


class Params(BaseModel, frozen=True, extra="forbid"):
    """Nothing to choose: which maps are scaled is known for each kind of model."""


def attach(model: Any, params: Params) -> Any:
    """One factor for every output of the scaled maps."""
    from peft import IA3Config, get_peft_model

    return get_peft_model(model, IA3Config(task_type=task_type(model), fan_in_fan_out=is_turned(model)))
