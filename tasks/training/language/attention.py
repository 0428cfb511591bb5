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
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "athanor"
BLOCK = 256  # queries that are computed at once on a CPU
MIN_FLASH_CAPABILITY = (8, 0)  # Ampere
MAX_FLASH_HEAD_DIM = 256


def packed_mask(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """The `attention_mask` for packed rows: `cu_seqlens` where flash attention runs, else `packed_causal_mask`."""
    if has_flash_attention(positions.device, dtype):
        return cu_seqlens(positions)
    return packed_causal_mask(positions, dtype)


def has_flash_attention(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether variable-length flash attention runs on this device and in this precision."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    is_built = torch.backends.cuda.is_flash_attention_available()
    return is_built and torch.cuda.get_device_capability(device) >= MIN_FLASH_CAPABILITY


def cu_seqlens(positions: Tensor) -> Tensor:
    """Cumulative lengths of the documents, all rows one after another: positions [rows, length] -> int32 [1, 1, 1, n].

    n is the number of documents plus one: the start of each document, and the number of tokens. The result has four
    dimensions because transformers passes a mask with four dimensions on unchanged; any other it would expand.
    """
    is_start = positions == 0
    is_start[:, 0] = True  # a row may begin in the middle of a document
    starts = is_start.flatten().nonzero().flatten().to(torch.int32)
    return F.pad(starts, (0, 1), value=positions.numel())[None, None, None]


def packed_causal_mask(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive causal mask of packed rows: positions [rows, length] -> [rows, 1, length, length].

    0 for keys at or before the query in the same document, else -inf. A document starts where the position is 0.
    """
    document = (positions == 0).cumsum(1)
    length = positions.shape[1]
    is_later = torch.ones(length, length, dtype=torch.bool, device=positions.device).triu_(1)
    is_masked = (document[:, :, None] != document[:, None, :]) | is_later
    mask = torch.zeros(is_masked.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(is_masked, -torch.inf)[:, None]


def same_document_mask(positions: Tensor) -> Tensor:
    """The mask of packed rows for an encoder: bool [rows, 1, length, length], True within a document."""
    document = (positions == 0).cumsum(1)
    return (document[:, :, None] == document[:, None, :])[:, None]


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Use the attention of this module in `model` within the block, and the previous one afterwards."""
    previous = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(previous)


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """The interface of transformers: [rows, heads, length, head_dim] each -> [rows, length, heads, head_dim]."""
    if attention_mask is not None and attention_mask.dtype == torch.int32:  # from `cu_seqlens`: no other mask is int32
        if _fits_flash_attention(module, query, settings):
            return _varlen(query, key, value, attention_mask.flatten(), settings), None
        attention_mask = packed_causal_mask(_positions(attention_mask.flatten(), query), query.dtype)
    attention_mask = _sliding_window(settings.get("sliding_window"), attention_mask, query, key)
    mask = _additive_mask(attention_mask, query, key)
    if mask is None:
        if attention_mask is not None and attention_mask.is_floating_point():
            # FSDP casts the weights of a layer during its forward pass, after the mask was created in their old dtype.
            attention_mask = attention_mask.to(query.dtype)
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return output, None
    dropout = settings.get("dropout", 0.0) if module.training else 0.0
    return _blockwise(query, key, value, mask, settings.get("scaling"), dropout), None


def _blockwise(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None, dropout: float) -> Tensor:
    """Attention on a CPU, BLOCK queries at a time: keys after the last query of a block are never multiplied."""
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
        weights = torch.softmax(scores.add_(mask[:, :, start:end, :num_keys]), -1)
        outputs.append(F.dropout(weights, dropout, dropout > 0) @ value[:, :, :num_keys])
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2)
    return output.transpose(1, 2).contiguous()


def _fits_flash_attention(module: Any, query: Tensor, settings: dict[str, Any]) -> bool:
    """Whether `varlen_attn` can compute this layer: it has no dropout, and it limits the head dimension."""
    has_dropout = module.training and settings.get("dropout", 0.0) > 0
    return not has_dropout and query.shape[-1] <= MAX_FLASH_HEAD_DIM and query.shape[-1] % 8 == 0


def _sliding_window(window: int | None, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """`packed_causal_mask` without the keys that are `window` or more tokens before their query.

    transformers adds the sliding window of a layer to the masks that it creates itself, but not to ours.
    """
    if window is None or mask is None or not mask.is_floating_point() or key.shape[2] <= window:
        return mask
    index = torch.arange(key.shape[2], device=query.device)
    distance = index[-query.shape[2] :, None] - index
    return mask.masked_fill(distance >= window, -torch.inf)


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


def _additive_mask(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """`mask` as numbers that are added to the scores, or None where `sdpa_attention_forward` does the work."""
    if query.device.type != "cpu":
        return None
    if mask is None:  # causal; a single query, the newest token in decoding, attends to all keys
        return query.new_zeros(1, 1, 1, key.shape[2]) if query.shape[2] == 1 else None
    if mask.dtype == torch.bool:
        # A finite number instead of -inf: a query that is padding has no key at all, and softmax would give NaN.
        return query.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(query.dtype).min)
    return mask


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
