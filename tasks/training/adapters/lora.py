"""LoRA (arXiv:2106.09685): add a product of two low-rank matrices to each linear map. DoRA and rsLoRA are params."""

from typing import Any

from pydantic import BaseModel, Field

from tasks.training.adapters import has_conv1d, new_token_rows, task_type


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
    )
    return get_peft_model(model, config)
