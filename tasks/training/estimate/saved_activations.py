"""The activations that the forward pass saves for the backward pass, counted on a model without memory.

autograd reports every tensor that it saves (`saved_tensors_hooks`), and on the meta device a tensor has a size but no
numbers. So a model of any width is counted in a second. The difference between two layers and one is what each layer
saves. Attention itself is replaced by a stub: what it saves depends on the kernel, and estimate.py adds it by a rule.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tasks import models
from tasks.models import Objective

NAME = "athanor-stub"
TOKENS = 16  # any number would do: what a layer saves is proportional to it


def bytes_per_token(objective: Objective, settings: Any) -> dict[int, float] | None:
    """Bytes that one layer saves for each token, by the bytes of a number: {4: ... fp32, 2: ... bf16}.

    None if the class needs actual numbers in its forward pass (RuntimeError on the meta device). If it needs them in
    fp32 only, as experts do, twice the bytes of bf16 are assumed.
    """
    try:
        bf16_bytes = _layer_bytes_per_token(objective, settings, torch.bfloat16)
    except RuntimeError:
        return None
    try:
        return {4: _layer_bytes_per_token(objective, settings, torch.float32), 2: bf16_bytes}
    except RuntimeError:
        return {4: 2 * bf16_bytes, 2: bf16_bytes}


def _layer_bytes_per_token(objective: Objective, settings: Any, dtype: torch.dtype) -> float:
    one, two = (_saved_bytes(objective, _with_layers(settings, number), dtype) for number in (1, 2))
    num_added = 2 if objective == "span" else 1  # one layer of the encoder and one of the decoder
    return (two - one) / TOKENS / num_added


def _with_layers(settings: Any, number: int) -> Any:
    """A copy of a config with `number` layers and a small vocabulary, whose logits would cost time."""
    shallow = copy.deepcopy(settings)
    shallow.num_hidden_layers = number
    if shallow.is_encoder_decoder:
        shallow.num_decoder_layers = number
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = ["full_attention"] * number
    shallow.vocab_size = TOKENS
    return shallow


def _saved_bytes(objective: Objective, settings: Any, dtype: torch.dtype) -> int:
    """Bytes that one forward pass of TOKENS tokens saves, without the weights."""
    with torch.device("meta"):
        model = models.auto_class(objective).from_config(settings, dtype=dtype, attn_implementation=NAME).train()
        ids = torch.zeros(1, TOKENS, dtype=torch.long)
        mask = torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.bool)
    # A tensor is identified by its storage, because several views of it may be saved. `data_ptr` is 0 for all storages
    # of the meta device; the address of the C++ object (`_cdata`) is unique. The tensors are kept until the end, so
    # that no address is used twice.
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved_tensors: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        if (storage := tensor.untyped_storage()._cdata) not in weights:
            saved_tensors[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        if objective == "span":
            model(input_ids=ids, labels=ids, attention_mask=mask)
        else:
            model.base_model(input_ids=ids, attention_mask=mask)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved_tensors.values())


def _stub(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """A tensor of the shape of attention's result, [rows, length, heads, head_dim], that depends on the value."""
    return torch.empty_like(query).transpose(1, 2).contiguous() + 0 * value.sum(), None


AttentionInterface.register(NAME, _stub)
AttentionMaskInterface.register(NAME, sdpa_mask)
