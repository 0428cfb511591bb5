"""The weights of a model by part, counted on the model itself, built without memory for them (torch's meta device)."""

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
    """As much of a tokenizer as a config needs."""

    size: int
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True, slots=True)
class Counts:
    """What estimates need to know of a model. All counts are of weights; a tied head counts as embedding."""

    parts: dict[str, int]  # by PARTS, those that there are
    matrices: dict[str, int]  # of the blocks, that a token is multiplied by: {"encoder": ..., "decoder": ...}
    by_muon: int  # of plain matrices, which that optimizer takes; stacks and tables are AdamW's
    head: int  # of the matrix that gives logits, tied or not
    linear_widths: tuple[tuple[int, int], ...]  # (in, out) of every linear map of the blocks: what LoRA goes beside
    objective: Objective
    width: int
    num_layers: int  # of both stacks together
    num_heads: int
    kept: Mapping[int, float] | None  # bytes per layer and token, by the size of a number: see saved_activations.py

    @property
    def total(self) -> int:
        """All weights."""
        return sum(self.parts.values())

    def lora(self, rank: int) -> int:
        """Weights of a LoRA of that rank beside every linear map of the blocks (arXiv:2106.09685)."""
        return sum(rank * (wide + high) for wide, high in self.linear_widths)


def count_shape(shape: Architecture, vocab_size: int) -> Counts:
    """Counts of a model in this shape."""
    return count(_without_memory(shape.objective, config(shape, Vocabulary(vocab_size))))


def count_checkpoint(name: str) -> Counts:
    """Counts of the model folder or hub model `name`, of which the config alone is read. Raises BadModel."""
    return count(_without_memory(models.objective(name), models.load_config(name)))


def _without_memory(objective: Objective, settings: Any) -> Any:
    with torch.device("meta"):
        return models.auto_class(objective).from_config(settings)


def count(model: Any) -> Counts:
    """Counts of `model`, whose weights may be on the meta device."""
    tables = {id(p) for p in model.get_input_embeddings().parameters()}
    head = model.get_output_embeddings().weight
    parts = dict.fromkeys(PARTS, 0)
    matrices = {"encoder": 0, "decoder": 0}
    share = _share_of_experts(model.config)
    for name, parameter in model.named_parameters():
        part = "embedding" if id(parameter) in tables else part_of(name)
        parts[part] += parameter.numel()
        if part in ("attention", "mlp", "router") and parameter.ndim > 1 and "relative" not in name:
            active = parameter.numel() * (share if "experts" in name else 1)
            matrices["encoder" if name.startswith("encoder.") else "decoder"] += round(active)
    settings = model.config
    return Counts(
        parts={part: number for part, number in parts.items() if number},
        matrices=matrices,
        by_muon=sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and not is_embedding_or_head(n)),
        head=head.numel(),
        linear_widths=tuple(_linear_widths(model)),
        objective=_objective(model),
        width=settings.hidden_size,
        num_layers=settings.num_hidden_layers + (settings.num_decoder_layers if settings.is_encoder_decoder else 0),
        num_heads=settings.num_attention_heads,
        kept=saved_activations.per_token(_objective(model), settings),
    )


def part_of(name: str) -> str:
    """The part that a weight belongs to, by its name in the Hugging Face classes."""
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


def _share_of_experts(settings: Any) -> float:
    experts = getattr(settings, "num_local_experts", None) or getattr(settings, "num_experts", None)
    return settings.num_experts_per_tok / experts if experts else 1.0


def _linear_widths(model: Any) -> list[tuple[int, int]]:
    heads = {id(model.get_output_embeddings())}
    return [
        (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and id(module) not in heads
        and part_of(name) in ("attention", "mlp")
    ]
