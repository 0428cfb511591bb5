"""Causal models as evaluation runs them: on the GPU if there is one, by the methods that their self-check chooses."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@cache
def device() -> "torch.device":
    """The GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_causal(folder: Path, max_length: int | None) -> tuple[Any, Any, list[str]]:
    """The model of a folder, its tokenizer, and notes for the report. max_length: of a prompt with its answer.

    Raises BadModel.
    """
    from tasks import models

    model, tokenizer = models.load_causal(folder)
    model = model.to(device()).eval()
    return model, tokenizer, check(model, tokenizer, max_length, packing="auto", pairs="auto", generation="auto")


def check(model: Any, tokenizer: Any, max_length: int | None, **methods: Any) -> list[str]:
    """Choose how `model` is run by its self-check; return its notes. Raises BadModel."""
    from tasks.causal import remembered
    from tasks.causal.self_check import AS_LOADED, Needs

    needs = Needs(max_length=max_length, attentions=AS_LOADED, **methods)
    return remembered.prepare(model, tokenizer, needs, keep_attention=True)
