"""LoRA (arXiv:2106.09685): add a product of two low-rank matrices to each linear map. DoRA and rsLoRA are params."""

from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from tasks.answers import evaluating
from tasks.training.adapters import has_conv1d, new_token_rows, task_type

NUM_PROBE_TOKENS = 4
EMPTY = torch.empty(0)
MAMBA_TYPES = {"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"}  # those that peft refuses


class Params(BaseModel, frozen=True, extra="forbid"):
    """The rank, scale and variant of LoRA."""

    rank: int = Field(8, ge=1, description="Rank of the two matrices.")
    alpha: float = Field(16.0, gt=0, description="The product of the matrices is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping an input of the matrices.")
    use_dora: bool = Field(
        False,
        description="Train the magnitude of each weight vector apart from its direction (DoRA, arXiv:2402.09353).",
    )
    use_rslora: bool = Field(
        False, description="Multiply the product by alpha / sqrt(rank) instead (rsLoRA, arXiv:2312.03732)."
    )


def attach(model: Any, params: Params) -> Any:
    """Add LoRA to every linear map of the blocks, and train the rows of new tokens in the embeddings and the head."""
    from peft import LoraConfig, get_peft_model

    excluded = incompatible_maps(model)
    config = LoraConfig(
        task_type=task_type(model),
        target_modules="all-linear",
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        use_dora=params.use_dora,
        use_rslora=params.use_rslora,
        fan_in_fan_out=has_conv1d(model),
        trainable_token_indices=new_token_rows(model),
        exclude_modules=excluded or None,
    )
    return get_peft_model(model, config)


def incompatible_maps(model: Any) -> list[str]:
    """The names of the linear maps of `model` to which LoRA cannot be added.

    Some blocks, such as those of Mamba, use the weight of a map without a call of the module, so that an adapter in it
    would have no effect. Some routers of experts are linear maps that return more than a product.
    """
    outputs = outputs_of_modules(model)
    is_mamba = getattr(model.config, "model_type", None) in MAMBA_TYPES
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (
            (is_mamba and name.endswith("out_proj"))
            or (name not in outputs and name.rpartition(".")[0] in outputs)
            or not isinstance(outputs.get(name, EMPTY), Tensor)
        )
    ]


@torch.no_grad()
def outputs_of_modules(model: Any) -> dict[str, Any]:
    """What each module of `model` that a short pass calls returns, by its name; empty for a model without memory."""
    device = next(model.parameters()).device
    outputs: dict[str, Any] = {}
    if device.type == "meta":
        return outputs

    def keep(_: Any, __: Any, output: Any, name: str) -> None:
        outputs[name] = output[:0] if isinstance(output, Tensor) else None

    hooks = [module.register_forward_hook(partial(keep, name=name)) for name, module in model.named_modules()]
    try:
        with evaluating(model):
            model(input_ids=torch.arange(1, NUM_PROBE_TOKENS + 1, device=device)[None])
    finally:
        for hook in hooks:
            hook.remove()
    return outputs
