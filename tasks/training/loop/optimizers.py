"""Optimizers by name. Only matrices have weight decay: decaying a norm or a bias toward zero has no purpose."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from tasks.errors import BadParams
from tasks.training.loop.muon import Muon

# These need the full tensor of a weight, so they do not work with sharded weights: Adafactor sums over whole rows and
# columns, and the kernels of bitsandbytes do not know DTensors.
NEEDS_FULL_WEIGHTS = ("adafactor", "lion", "adamw_8bit")
# Parts of the names that transformers gives to embeddings and heads in the supported kinds of models.
EMBEDDINGS_AND_HEADS = (
    "embed", "lm_head", "score", "wte", "wpe", "value_head", "shared", "relative_attention_bias",
    "cls.predictions.decoder",
)  # fmt: skip

Name = Literal["adamw", "muon", "adafactor", "lion", "adamw_8bit"]


def build(
    name: Name,
    named: Sequence[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    betas: tuple[float, float],
    embedding_factor: float = 1.0,
) -> list[Optimizer]:
    """Optimizers over `named` parameters, with learning rate 1: the loop multiplies it by the "factor" of each group.

    "muon": matrices inside the blocks by Muon (Jordan 2024, with arXiv:2502.16982's scale), the rest by AdamW.
    "adafactor" (arXiv:1804.04235) stores row and column sums only; its rate is relative to the size of the weights.
    "lion" (arXiv:2302.06675; use a third of AdamW's rate) and "adamw_8bit" (arXiv:2110.02861) come from bitsandbytes.
    `embedding_factor` multiplies the rate of embeddings and head, of which each step updates only a few rows. Raises
    BadParams where bitsandbytes is not installed, or where the optimizer does not support sharded weights.
    """
    if name in NEEDS_FULL_WEIGHTS and any(isinstance(p, DTensor) for _, p in named):
        raise BadParams(f"optimizer {name} does not support launch.strategy fsdp or tensor; use adamw or muon")
    embeddings = [p for n, p in named if p.ndim == 2 and is_embedding_or_head(n)]
    matrices = [p for n, p in named if p.ndim == 2 and not is_embedding_or_head(n)]
    stacks = [p for _, p in named if p.ndim > 2]  # the experts of a mixture; Muon takes single matrices only
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [
        {"params": embeddings, "weight_decay": weight_decay, "factor": embedding_factor},
        {"params": stacks, "weight_decay": weight_decay, "factor": 1.0},
        {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
    ]
    if name != "muon":
        groups.append({"params": matrices, "weight_decay": weight_decay, "factor": 1.0})
        matrices = []
    groups = [group for group in groups if group["params"]]  # torch refuses an optimizer without parameters
    built = [_elementwise("adamw" if name == "muon" else name, groups, betas)] if groups else []
    if matrices:
        muon = [{"params": matrices, "factor": 1.0}]
        built.append(Muon(muon, lr=1.0, weight_decay=weight_decay))
    return built


def _elementwise(name: Name, groups: list[dict[str, Any]], betas: tuple[float, float]) -> Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=1e-8, fused=True)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=1.0)
    library = _bitsandbytes(name)
    kind = library.Lion if name == "lion" else library.AdamW8bit
    optimizer: Optimizer = kind(groups, lr=1.0, betas=betas)
    return optimizer


def _bitsandbytes(name: str) -> Any:
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise BadParams(
            f"optimizer {name} needs bitsandbytes: pip install -c constraints.txt -e '.[quantized]', or use adamw"
        ) from error
    return optim


def is_embedding_or_head(name: str) -> bool:
    """Whether `name` is an embedding or a head. Its rows are independent vectors, so Muon does not suit it."""
    return name == "decoder.weight" or any(part in name for part in EMBEDDINGS_AND_HEADS)
