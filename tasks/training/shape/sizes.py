"""The param `size` of pretrain: one word sets the shape, learning rate, batch and number of steps by published rules.

Shapes: gpt2 ... gpt2-xl are those of GPT-2 (Radford et al. 2019, table 2), gpt3-xl ... gpt3 those of GPT-3
(arXiv:2005.14165, table 2.1). Two misprints of that table are corrected: 24 heads of 128 do not fit a width of 2048 (16
do), and a width of 5140 is no multiple of 128 (5120 is). nano, micro and small continue the table downwards with 64
numbers per head. Tokens: 20 per weight of the blocks (Chinchilla, arXiv:2203.15556). Learning rate and batch size are
functions of the compute (DeepSeek LLM, arXiv:2401.02954, equation 1), which were fitted with AdamW.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel

Name = Literal[
    "nano", "micro", "small", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl",
    "gpt3-xl", "gpt3-2.7b", "gpt3-6.7b", "gpt3-13b", "gpt3",
]  # fmt: skip

TOKENS_PER_WEIGHT = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """A row of the published tables."""

    num_layers: int
    width: int
    num_heads: int
    sequence_length: int  # tokens
    kind: str | None = None  # of the published model; None means the default of Architecture


SHAPES: dict[str, Shape] = {
    "nano": Shape(4, 128, 2, 256),
    "micro": Shape(6, 256, 4, 512),
    "small": Shape(8, 512, 8, 1024),
    "gpt2": Shape(12, 768, 12, 1024, "gpt2"),
    "gpt2-medium": Shape(24, 1024, 16, 1024, "gpt2"),
    "gpt2-large": Shape(36, 1280, 20, 1024, "gpt2"),
    "gpt2-xl": Shape(48, 1600, 25, 1024, "gpt2"),
    "gpt3-xl": Shape(24, 2048, 16, 2048, "gpt2"),
    "gpt3-2.7b": Shape(32, 2560, 32, 2048, "gpt2"),
    "gpt3-6.7b": Shape(32, 4096, 32, 2048, "gpt2"),
    "gpt3-13b": Shape(40, 5120, 40, 2048, "gpt2"),
    "gpt3": Shape(96, 12288, 96, 2048, "gpt2"),
}
assert tuple(SHAPES) == get_args(Name)


def apply_size(section: Mapping[str, Any]) -> dict[str, Any]:
    """The pretrain section of params.yaml with the values of its `size` for the keys that it does not set itself."""
    shape, own_model = SHAPES.get(str(section.get("size"))), section.get("model") or {}
    if shape is None or not isinstance(own_model, Mapping | BaseModel):
        return dict(section)
    own_model = own_model.model_dump(exclude_unset=True) if isinstance(own_model, BaseModel) else dict(own_model)
    model = {"num_layers": shape.num_layers, "width": shape.width, "num_heads": shape.num_heads}
    model["max_length"] = max(1024, int(section.get("sequence_length") or shape.sequence_length))
    if shape.kind and section.get("objective", "causal") == "causal":
        own_model.setdefault("kind", shape.kind)
    model |= own_model
    return {**section, "model": model, **_batch_and_rate(section, num_weights(model), shape.sequence_length)}


def num_weights(model: Mapping[str, Any]) -> int:
    """Weights of the blocks without norms and biases: 12 * layers * width^2 (arXiv:2001.08361, table 1)."""
    return 12 * int(model["num_layers"]) * int(model["width"]) ** 2


def compute(weights: float, tokens: float) -> float:
    """FLOPs of training: 6 per weight and token (arXiv:2001.08361)."""
    return 6 * weights * tokens


def learning_rate(flops: float) -> float:
    """The best peak learning rate for a compute budget: 0.3118 C^-0.125 (arXiv:2401.02954), to two digits."""
    return float(f"{0.3118 * flops**-0.125:.2g}")


def batch_tokens(flops: float) -> float:
    """The best batch size for a compute budget, in tokens: 0.2920 C^0.3271 (arXiv:2401.02954)."""
    return float(0.2920 * flops**0.3271)


def _batch_and_rate(section: Mapping[str, Any], weights: int, sequence_length: int) -> dict[str, Any]:
    tokens = TOKENS_PER_WEIGHT * weights
    flops = compute(weights, tokens)
    length = int(section.get("sequence_length") or sequence_length)
    rows = int(section.get("global_batch_size") or max(1, round(batch_tokens(flops) / length)))
    rules = {"sequence_length": length, "global_batch_size": rows, "learning_rate": learning_rate(flops)}
    rules["steps"] = max(1, round(tokens / (rows * length)))
    return rules | {name: section[name] for name in rules if section.get(name) is not None}
