"""Attention for packed rows: documents in one row do not attend to each other. Registered with transformers as NAME.

Three implementations, chosen for each call:

- On a GPU in 16 bits: torch's variable-length flash attention, which receives the cumulative lengths of the documents
  (`cu_seqlens`); no mask exists.
- On a CPU with a mask: plain matrix products in blocks of BLOCK queries. For contexts of some hundred tokens in bf16
  they are twice as fast as torch's fused kernels, and an additive mask costs nothing.
- Otherwise: `sdpa_attention_forward` of transformers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sliding_window_causal_mask_function

from tasks import peft
from tasks.causal import masks, methods
from tasks.causal.masks import NAME
from tasks.errors import BadModel

BLOCK = 256  # queries that are computed at once on a CPU
MAX_FLASH_HEAD_DIM = 256
KNOWN_SETTINGS = {"dropout", "scaling", "softcap", "s_aux", "sliding_window"}
# What models pass on although it changes nothing here: masks contain the positions, and causality too.
IRRELEVANT_SETTINGS = {
    "cache_position", "input_ids", "is_causal", "layer_idx", "logits_to_keep", "num_items_in_batch",
    "output_attentions", "output_hidden_states", "output_router_logits", "position_ids", "return_dict",
    "seq_len", "use_cache",
}  # fmt: skip


def same_document_mask(positions: Tensor) -> Tensor:
    """The mask of packed rows for an encoder: bool [rows, 1, length, length], True within a document."""
    document = (positions == 0).cumsum(1)
    return (document[:, :, None] == document[:, None, :])[:, None]


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Use the attention that `methods.of(model)` names within the block, and the previous one afterwards.

    By default that is the attention of this module. A model without AttentionInterface keeps its own.
    """
    base = peft.base_model(model)
    previous = base.config._attn_implementation
    set_implementation(base, methods.of(model).attention)
    try:
        yield
    finally:
        set_implementation(base, previous)


def set_implementation(model: Any, name: str) -> None:
    """Use the attention `name` in a model of transformers, if it can use another one than its own."""
    if model._can_set_attn_implementation():
        model.set_attn_implementation(name)


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """The interface of transformers: [rows, heads, length, head_dim] each -> [rows, length, heads, head_dim].

    Raises BadModel for a setting that it does not know, because the attention would be another one than the model's.
    """
    _refuse_unknown(module, settings)
    if attention_mask is not None and attention_mask.dtype == torch.int32:  # from `cu_seqlens`: no other mask is int32
        if _fits_flash_attention(module, query, settings):
            return _varlen(query, key, value, attention_mask.flatten(), settings), None
        attention_mask = _mask_of_starts(attention_mask.flatten(), query, settings.get("sliding_window"))
    changes_scores = settings.get("softcap") is not None or settings.get("s_aux") is not None
    mask = _additive_mask(attention_mask, query, key, changes_scores)
    if mask is None:
        if attention_mask is not None and attention_mask.is_floating_point():
            # FSDP casts the weights of a layer during its forward pass, after the mask was created in their old dtype.
            attention_mask = attention_mask.to(query.dtype)
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return output, None
    dropout = settings.get("dropout", 0.0) if module.training else 0.0
    return _blockwise(query, key, value, mask, dropout, settings), None


def _refuse_unknown(module: Any, settings: dict[str, Any]) -> None:
    for name in settings.keys() - KNOWN_SETTINGS - IRRELEVANT_SETTINGS:
        if settings[name] is not None and settings[name] is not False:
            raise BadModel(
                f"{type(module).__name__} passes {name!r} to its attention, which the attention {NAME} does not have"
            )


def _blockwise(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: float, settings: dict[str, Any]
) -> Tensor:
    """Attention on a CPU, BLOCK queries at a time: keys after the last query of a block are never multiplied."""
    scale, cap, sinks = settings.get("scaling"), settings.get("softcap"), settings.get("s_aux")
    group_size = query.shape[1] // key.shape[1]  # query heads that share one key and value head (arXiv:2305.13245)
    if group_size > 1:
        key, value = key.repeat_interleave(group_size, 1), value.repeat_interleave(group_size, 1)
    scaled = query * (scale or query.shape[-1] ** -0.5)
    num_earlier = key.shape[2] - query.shape[2]  # keys of a prefix, or of tokens that are already in the cache
    outputs = []
    for start in range(0, query.shape[2], BLOCK):
        end = min(start + BLOCK, query.shape[2])
        num_keys = num_earlier + end
        scores = scaled[:, :, start:end] @ key[:, :, :num_keys].transpose(2, 3)
        if cap is not None:  # Gemma 2
            scores = torch.tanh(scores / cap) * cap
        scores = scores.add_(mask[:, :, start:end, :num_keys])
        weights = torch.softmax(scores, -1) if sinks is None else _softmax_with_sinks(scores, sinks)
        outputs.append(F.dropout(weights, dropout, dropout > 0) @ value[:, :, :num_keys])
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
    return output.transpose(1, 2).contiguous()


def _softmax_with_sinks(scores: Tensor, sinks: Tensor) -> Tensor:
    """The softmax over the keys and one more score per head, which takes probability from them (gpt-oss)."""
    column = sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)
    return torch.softmax(torch.cat((scores, column), -1), -1)[..., :-1]


def _fits_flash_attention(module: Any, query: Tensor, settings: dict[str, Any]) -> bool:
    """Whether `varlen_attn` can compute this layer: no dropout, unchanged scores, and a limited head dimension."""
    if settings.get("softcap") is not None or settings.get("s_aux") is not None:
        return False
    has_dropout = module.training and settings.get("dropout", 0.0) > 0
    return not has_dropout and query.shape[-1] <= MAX_FLASH_HEAD_DIM and query.shape[-1] % 8 == 0


def varlen_attn(*arguments: Any, **named: Any) -> Any:
    """Call torch's function, whose module imports those of torch.compile: seconds that other runs save."""
    from torch.nn.attention.varlen import varlen_attn as function

    return function(*arguments, **named)


def _varlen(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, settings: dict[str, Any]) -> Tensor:
    """Causal attention within each document: [rows, heads, length, head_dim] -> [rows, length, heads, head_dim]."""
    rows, heads, length, size = query.shape
    query, key, value = (x.transpose(1, 2).reshape(rows * length, -1, size) for x in (query, key, value))
    scale, is_grouped = settings.get("scaling"), heads != key.shape[1]
    # (number of earlier keys, number of later keys) that a query attends to; -1 means all. 0 later keys means causal.
    window_size = ((settings.get("sliding_window") or 0) - 1, 0)
    output: Any = varlen_attn(
        query, key, value, starts, starts, length, length, scale=scale, window_size=window_size, enable_gqa=is_grouped
    )
    return output.view(rows, length, heads, size)  # type: ignore[no-any-return]


def _positions(starts: Tensor, query: Tensor) -> Tensor:
    """The inverse of `cu_seqlens`: positions [rows, length] of the rows of `query`."""
    rows, _, length, _ = query.shape
    index = torch.arange(rows * length, device=query.device)
    document = torch.bucketize(index, starts[1:-1].long(), right=True)
    return (index - starts.long()[document]).view(rows, length)


def _mask_of_starts(starts: Tensor, query: Tensor, window: int | None) -> Tensor:
    """The additive mask of the same rows, for a layer that flash attention cannot compute."""
    layout = masks.Layout(_positions(starts, query))
    function = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    return masks.additive(layout.allowed(function), query.dtype)


def _additive_mask(mask: Tensor | None, query: Tensor, key: Tensor, changes_scores: bool) -> Tensor | None:
    """`mask` as numbers that are added to the scores, or None where `sdpa_attention_forward` does the work."""
    if query.device.type != "cpu" and not changes_scores:
        return None
    if mask is None:  # causal; a single query, the newest token in decoding, attends to all keys
        if query.shape[2] == 1:
            return query.new_zeros(1, 1, 1, key.shape[2])
        if not changes_scores:
            return None
        shape = query.shape[2], key.shape[2]
        is_earlier = torch.ones(shape, dtype=torch.bool, device=query.device).tril_(shape[1] - shape[0])
        return masks.additive(is_earlier[None, None], query.dtype)
    if mask.dtype == torch.bool:
        # A finite number instead of -inf: a query that is padding has no key at all, and softmax would give NaN.
        return query.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(query.dtype).min)
    return mask


AttentionInterface.register(NAME, _forward)
