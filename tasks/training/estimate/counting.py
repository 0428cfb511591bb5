"""The number of weights of a model by part, counted on the model itself, built without memory (meta device)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tasks import models
from tasks.models import Objective
from tasks.training.estimate import saved_activations
from tasks.training.loop.optimizers import is_embedding_or_head
from tasks.training.shape.architecture import Architecture, config

PARTS = ("embedding", "attention", "mlp", "router", "norms", "head")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The attributes of a tokenizer that a config needs."""

    size: int
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class WeightCounts:
    """What an estimate needs to know of a model. A tied head counts as embedding."""

    parts: dict[str, int]  # weights of each of PARTS that the model has
    matrices: dict[str, int]  # weights of the blocks that one token is multiplied by: {"encoder": ..., "decoder": ...}
    muon: int  # weights that Muon updates: matrices of the blocks; AdamW updates the others
    head: int  # weights of the matrix that computes logits, tied or not
    linear_sides: tuple[tuple[int, int], ...]  # both sides of each linear map of the blocks, to which LoRA is added
    objective: Objective
    width: int
    num_layers: int  # of encoder and decoder together
    num_heads: int
    saved_bytes: Mapping[int, float] | None  # per layer and token, by the bytes of a number: saved_activations.py

    @property
    def total(self) -> int:
        """All weights."""
        return sum(self.parts.values())

    def lora(self, rank: int) -> int:
        """The weights of a LoRA of this rank for every linear map of the blocks (arXiv:2106.09685)."""
        return sum(rank * sum(sides) for sides in self.linear_sides)


def count_shape(shape: Architecture, vocab_size: int) -> WeightCounts:
    """Count the weights of a model of this shape."""
    return count(_build_without_memory(shape.objective, config(shape, Vocabulary(vocab_size))))


def count_checkpoint(name: str) -> WeightCounts:
    """Count the weights of the model folder or hub model `name`; only its config is read. Raises BadModel."""
    return count(_build_without_memory(models.objective(name), models.load_config(name)))


def _build_without_memory(objective: Objective, settings: Any) -> Any:
    with torch.device("meta"):
        return models.auto_class(objective).from_config(settings)


def count(model: Any) -> WeightCounts:
    """Count the weights of `model`, which may be on the meta device."""
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    parts = dict.fromkeys(PARTS, 0)
    matrices = {"encoder": 0, "decoder": 0}
    active_share = _active_share_of_experts(model.config)
    for name, parameter in model.named_parameters():
        part = "embedding" if id(parameter) in embeddings else part_of(name)
        parts[part] += parameter.numel()
        # Biases, and the relative position biases of T5, are added to a token and cost no product.
        if part in ("attention", "mlp", "router") and parameter.ndim > 1 and "relative" not in name:
            num_active = parameter.numel() * (active_share if "experts" in name else 1)
            matrices["encoder" if name.startswith("encoder.") else "decoder"] += round(num_active)
    settings, objective = model.config, _objective(model)
    return WeightCounts(
        parts={part: number for part, number in parts.items() if number},
        matrices=matrices,
        muon=sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and not is_embedding_or_head(n)),
        head=model.get_output_embeddings().weight.numel(),
        linear_sides=tuple(_linear_sides(model)),
        objective=objective,
        width=settings.hidden_size,
        num_layers=settings.num_hidden_layers + (settings.num_decoder_layers if settings.is_encoder_decoder else 0),
        num_heads=settings.num_attention_heads,
        saved_bytes=saved_activations.bytes_per_token(objective, settings),
    )


def part_of(name: str) -> str:
    """Which of PARTS the weight `name` of a model of transformers belongs to."""
    if "norm" in name.lower() or ".ln_" in name:
        return "norms"
    if name.startswith(("lm_head", "cls.", "head.", "decoder.weight", "decoder.bias")):
        return "head"
    if any(part in name for part in ("embed", "wte", "wpe")):
        return "embedding"
    if name.endswith("mlp.gate.weight"):
        return "router"
    return "attention" if "attn" in name or "attention" in name.lower() else "mlp"


def _objective(model: Any) -> Objective:
    if model.config.is_encoder_decoder:
        return "span"
    return "masked" if type(model).__name__.endswith("MaskedLM") else "causal"


def _active_share_of_experts(settings: Any) -> float:
    num_experts = getattr(settings, "num_local_experts", None) or getattr(settings, "num_experts", None)
    return settings.num_experts_per_tok / num_experts if num_experts else 1.0


def _linear_sides(model: Any) -> list[tuple[int, int]]:
    head = id(model.get_output_embeddings())
    return [
        (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and id(module) != head
        and part_of(name) in ("attention", "mlp")
    ]
