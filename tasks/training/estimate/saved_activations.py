"""What the forward pass keeps for the backward pass, counted as autograd asks for it, on a model without memory.

One layer more keeps so much more: nothing of size is computed, whatever the width. Attention itself is left out, since
what it keeps depends on the kernel: estimate.py adds that.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tasks import models
from tasks.models import Objective

NAME = "athanor-nothing"
TOKENS = 16


def per_token(objective: Objective, settings: Any) -> dict[int, float] | None:
    """Bytes that one layer keeps of each token, in fp32 and in bf16 (4 and 2 bytes a number).

    None where a class computes what cannot be computed without numbers. Experts are counted in bf16 alone.
    """
    try:
        small = _of_one_layer(objective, settings, torch.bfloat16)
    except RuntimeError:
        return None
    try:
        return {4: _of_one_layer(objective, settings, torch.float32), 2: small}
    except RuntimeError:
        return {4: 2 * small, 2: small}


def _of_one_layer(objective: Objective, settings: Any, dtype: torch.dtype) -> float:
    one, two = (_kept(objective, _with_layers(settings, number), dtype) for number in (1, 2))
    return (two - one) / TOKENS / (2 if objective == "span" else 1)  # a layer of each half


def _with_layers(settings: Any, number: int) -> Any:
    shallow = copy.deepcopy(settings)
    shallow.num_hidden_layers = number
    if shallow.is_encoder_decoder:
        shallow.num_decoder_layers = number
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = ["full_attention"] * number
    shallow.vocab_size = TOKENS
    return shallow


def _kept(objective: Objective, settings: Any, dtype: torch.dtype) -> int:
    with torch.device("meta"):
        model = models.auto_class(objective).from_config(settings, dtype=dtype, attn_implementation=NAME).train()
        ids = torch.zeros(1, TOKENS, dtype=torch.long)
        mask = torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.bool)
    known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in known:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if objective == "span":
            model(input_ids=ids, labels=ids, attention_mask=mask)
        else:
            model.base_model(input_ids=ids, attention_mask=mask)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _nothing(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """In the shape of attention's result: [rows, length, heads, head_dim]."""
    return torch.empty_like(query).transpose(1, 2).contiguous() + 0 * value.sum(), None


AttentionInterface.register(NAME, _nothing)
AttentionMaskInterface.register(NAME, sdpa_mask)
