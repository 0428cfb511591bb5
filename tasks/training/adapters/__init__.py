"""PEFT methods, one file each: `Params`, and `attach(model, params)`, which returns the model to train."""

from typing import Any, Self

import torch
from pydantic import BaseModel, Field, SerializeAsAny, model_serializer, model_validator

from tasks import catalog, models, peft
from tasks.errors import BadParams


class AdapterParams(BaseModel, frozen=True, extra="forbid"):
    """`adapter: {name: lora, rank: 8 ...}`: the name of a file in this folder, followed by the Params of that file."""

    name: str = Field(description="Name of a file in tasks/training/adapters/, such as lora.")
    base_bits: peft.Bits | None = Field(
        None, description="Bits of the frozen weights of the base model: 8 (LLM.int8) or 4 (NF4; with LoRA this is "
        "QLoRA). null keeps their precision.",
    )  # fmt: skip
    params: SerializeAsAny[BaseModel] = Field(description="The Params of that file.")

    @model_validator(mode="before")
    @classmethod
    def _split(cls, section: Any) -> Any:
        """Separate the keys of this class from those of the adapter's own Params."""
        if isinstance(section, str):
            section = {"name": section}
        if not isinstance(section, dict) or "params" in section:
            return section
        settings = dict(section)
        name = str(settings.pop("name", ""))
        bits = {"base_bits": settings.pop("base_bits")} if "base_bits" in settings else {}
        adapter_params = catalog.find(__name__, name).Params
        _refuse_unknown_keys(name, settings, [*adapter_params.model_fields, "base_bits"])
        return {"name": name, **bits, "params": adapter_params(**settings)}

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if self.base_bits == 8 and getattr(self.params, "use_dora", False):
            raise ValueError(
                "use_dora does not work with base_bits: 8, because DoRA in peft 0.21 reads the weights as if they were "
                "not quantized. Set base_bits: 4, or use_dora: false."
            )
        return self

    @model_serializer
    def section(self) -> dict[str, Any]:
        """The section as it is written in params.yaml."""
        bits = {"base_bits": self.base_bits} if self.base_bits is not None else {}
        return {"name": self.name, **bits, **self.params.model_dump(mode="json")}


def _refuse_unknown_keys(name: str, settings: dict[str, Any], valid_keys: list[str]) -> None:
    for key in settings:
        if key not in valid_keys:
            raise BadParams(f"adapter {name} has no param {key!r}; {catalog.suggest(str(key), valid_keys)}")


def attach(model: Any, adapter: AdapterParams | None, seed: int) -> Any:
    """Attach `adapter` to `model`: only the adapter's weights are trained. Without an adapter, `model` itself.

    The first weights of the adapter depend on `seed` alone. Raises BadParams if a needed package is not installed.
    """
    if adapter is None:
        return model
    with torch.random.fork_rng(devices=[]), peft.without_peft_warnings():
        torch.manual_seed(seed)
        if adapter.base_bits is not None:
            peft.quantize(model, adapter.base_bits)
        return catalog.find(__name__, adapter.name).attach(model, adapter.params)


def has_conv1d(model: Any) -> bool:
    """Whether the weights of linear maps are [in, out] instead of [out, in]: GPT-2's are, unless they are quantized."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def new_token_rows(model: Any) -> dict[str, list[int]] | None:
    """The rows of new tokens in the embeddings, and in the head if it is another matrix, by the names of these modules.

    LoRA trains them besides its own matrices; otherwise the new tokens would keep their first embeddings.
    """
    indices, embedding, head = models.new_token_ids(model), model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name.rsplit(".", 1)[-1] for name, module in model.named_modules()}
    layers = [embedding]
    # peft would leave out the bias of a head.
    if head is not None and head.weight is not embedding.weight and getattr(head, "bias", None) is None:
        layers.append(head)
    return {names[id(layer)]: indices for layer in layers} if indices else None


def task_type(model: Any) -> Any:
    """The TaskType of peft for `model`. For a reward model, peft trains and saves the scalar head with the adapter."""
    from peft import TaskType

    return TaskType.SEQ_CLS if type(model).__name__.endswith("ForSequenceClassification") else TaskType.CAUSAL_LM


def num_trainable_parameters(model: Any) -> int:
    """The number of weights that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def num_parameters(model: Any) -> int:
    """The number of all weights of a PeftModel. A quantized weight counts once, although it is stored packed."""
    return int(model.get_nb_trainable_parameters()[1])


def parameter_counts(model: Any) -> dict[str, int]:
    """Counts for the report of a stage: trainable weights, and for a PeftModel all weights and their memory.

    `training_bytes`: the weights in their precision, plus 12 bytes for each trainable weight (its gradient and the two
    moments of AdamW, all in fp32). `training_bytes_of_full_fine_tuning`: 16 bytes for every weight. Activations and
    temporary memory are not included.
    """
    counts = {"num_trainable_parameters": num_trainable_parameters(model)}
    if not hasattr(model, "peft_config"):
        return counts
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    total = num_parameters(model)
    return {
        **counts,
        "num_parameters": total,
        "training_bytes": weight_bytes + 12 * counts["num_trainable_parameters"],
        "training_bytes_of_full_fine_tuning": 16 * total,
    }
