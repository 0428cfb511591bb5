"""PEFT methods, one file each: `Params`, and `attach(model, params)` giving the model to train."""

import warnings
from typing import Any, Self

import torch
from pydantic import BaseModel, SerializeAsAny, model_serializer, model_validator

from tasks import catalog
from tasks.training.adapters._quantized import Bits, quantize


class Choice(BaseModel, frozen=True, extra="forbid"):
    """`adapter: {name: lora, rank: 8 ...}`: a file of this folder, and the rest are its Params.

    `base_bits`: 8 (LLM.int8) or 4 (NF4, which makes LoRA QLoRA) for the frozen model below; none = as it is.
    """

    name: str
    base_bits: Bits | None = None
    params: SerializeAsAny[BaseModel]

    @model_validator(mode="before")
    @classmethod
    def _find(cls, paragraph: Any) -> Any:
        if isinstance(paragraph, str):
            paragraph = {"name": paragraph}
        if not isinstance(paragraph, dict) or "params" in paragraph:
            return paragraph
        dials = dict(paragraph)
        name = str(dials.pop("name", ""))
        bits = {"base_bits": dials.pop("base_bits")} if "base_bits" in dials else {}
        return {"name": name, **bits, "params": catalog.find(__name__, name).Params(**dials)}

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if self.base_bits == 8 and getattr(self.params, "use_dora", False):
            raise ValueError("use_dora reads weights in a way that breaks on base_bits 8 (peft 0.21): use base_bits 4")
        return self

    @model_serializer
    def paragraph(self) -> dict[str, Any]:
        """As it stands in params.yaml."""
        bits = {"base_bits": self.base_bits} if self.base_bits is not None else {}
        return {"name": self.name, **bits, **self.params.model_dump(mode="json")}


def attach(model: Any, choice: Choice | None, seed: int) -> Any:
    """`model` with the chosen adapter, of which alone the weights are trained; without one, the model itself."""
    if choice is None:
        return model
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)  # peft's own
        torch.manual_seed(seed)
        if choice.base_bits is not None:
            quantize(model, choice.base_bits)
        return catalog.find(__name__, choice.name).attach(model, choice.params)


def is_turned(model: Any) -> bool:
    """Whether the model's linear maps are stored the other way round, as GPT-2's are unless they are quantized."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def num_trained(model: Any) -> int:
    """How many weights training moves."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def task_type(model: Any) -> Any:
    """What peft calls the model's task; under a scalar head it trains that head with the adapter, and saves it too."""
    from peft import TaskType

    return TaskType.SEQ_CLS if type(model).__name__.endswith("ForSequenceClassification") else TaskType.CAUSAL_LM


def counted(model: Any) -> dict[str, int]:
    """For a report: weights that training moves, and what it keeps beside activations, in all and of full fine-tuning.

    Bytes of the weights as they are, and for each trained one of its gradient and AdamW's two numbers, in fp32.
    """
    counts = {"num_trained": num_trained(model)}
    if not hasattr(model, "peft_config"):
        return counts
    kept = sum(p.numel() * p.element_size() for p in model.parameters()) + 12 * counts["num_trained"]
    count = num_weights(model)
    return {**counts, "num_weights": count, "kept_bytes": kept, "kept_bytes_of_full_fine_tuning": 16 * count}


def num_weights(model: Any) -> int:
    """All weights of a model with an adapter, in however few bits they are."""
    return int(model.get_nb_trainable_parameters()[1])
