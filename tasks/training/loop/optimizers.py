"""Optimizers by name. Weight decay falls on matrices only: a norm or a bias has no scale to decay toward."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from tasks.errors import BadParams
from tasks.training.loop.muon import Muon

WHOLE = ("adafactor", "lion", "adamw_8bit")  # not for weights of which each process holds a part
TABLES = (
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
    table_factor: float = 1.0,
) -> list[Optimizer]:
    """Optimizers over `named` parameters, at learning rate 1: the loop scales every group by its "factor".

    "muon": matrices inside the blocks by Muon (Jordan 2024, with arXiv:2502.16982's scale), the rest by AdamW.
    "adafactor" (arXiv:1804.04235) keeps sums of rows and columns alone; its rate is relative to the size of weights.
    "lion" (arXiv:2302.06675; a third of AdamW's rate) and "adamw_8bit" (arXiv:2110.02861) are bitsandbytes'. Raises
    BadParams where that is not installed, or weights are in parts and the optimizer needs them whole.
    `table_factor`: how many times faster embeddings and the head learn: each step touches few of their rows.
    """
    if name in WHOLE and any(isinstance(p, DTensor) for _, p in named):
        raise BadParams(f"optimizer {name} needs whole weights; with launch.strategy fsdp or tensor take adamw or muon")
    tables = [p for n, p in named if p.ndim == 2 and is_embedding_or_head(n)]
    matrices = [p for n, p in named if p.ndim == 2 and not is_embedding_or_head(n)]
    stacks = [p for _, p in named if p.ndim > 2]
    vectors = [p for _, p in named if p.ndim < 2]
    groups = [
        {"params": tables, "weight_decay": weight_decay, "factor": table_factor},
        {"params": stacks, "weight_decay": weight_decay, "factor": 1.0},
        {"params": vectors, "weight_decay": 0.0, "factor": 1.0},
    ]
    if name != "muon":
        groups.append({"params": matrices, "weight_decay": weight_decay, "factor": 1.0})
        matrices = []
    groups = [group for group in groups if group["params"]]
    built = [_first("adamw" if name == "muon" else name, groups, betas)] if groups else []
    if matrices:
        muon = [{"params": matrices, "factor": 1.0}]
        built.append(Muon(muon, lr=1.0, weight_decay=weight_decay))
    return built


def _first(name: Name, groups: list[dict[str, Any]], betas: tuple[float, float]) -> Optimizer:
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=1.0, betas=betas, eps=1e-8, fused=True)
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=1.0)
    kind = _bitsandbytes(name)
    made: Optimizer = (
        kind.Lion(groups, lr=1.0, betas=betas) if name == "lion" else kind.AdamW8bit(groups, lr=1.0, betas=betas)
    )
    return made


def _bitsandbytes(name: str) -> Any:
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise BadParams(f"optimizer {name} needs bitsandbytes: pip install bitsandbytes, or take adamw") from error
    return optim


def is_embedding_or_head(name: str) -> bool:
    """Embeddings and heads: rows are looked up one by one, so they are no matrices to Muon."""
    return name == "decoder.weight" or any(part in name for part in TABLES)
