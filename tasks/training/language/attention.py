"""Attention for packed rows: documents in one row do not see each other, at the price of plain causal attention.

Registered with transformers under NAME. On a CPU, at contexts of some hundred tokens, two plain matrix products beat
the fused kernels of torch twofold in bf16, and take any mask for free; long rows go block by block, so that what lies
after a block is never computed. On a GPU in 16 bits flash attention takes the documents one by one, by where each of
them begins, and no mask is made. Elsewhere, and without a mask of ours, torch's own attention does the work.
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
BLOCK = 256
FLASH_SINCE = (8, 0)  # compute capability
MAX_FLASH_DIM = 256  # of a head


def mask_of(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """What keeps packed documents apart, to be given as `attention_mask`: `bounds` where `isolation` is not needed."""
    return bounds(positions) if has_flash(positions.device, dtype) else isolation(positions, dtype)


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether flash attention runs here on documents of any lengths."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    built = torch.backends.cuda.is_flash_attention_available()
    return built and torch.cuda.get_device_capability(device) >= FLASH_SINCE


def bounds(positions: Tensor) -> Tensor:
    """Where each document begins when all rows stand in one line, and the end: int32 [1, 1, 1, documents + 1].

    Four dimensions, because transformers hands a mask of four on as it is.
    """
    begins = positions == 0
    begins[:, 0] = True
    found = begins.flatten().nonzero().flatten().to(torch.int32)
    return F.pad(found, (0, 1), value=positions.numel())[None, None, None]


def isolation(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask of packed rows, to be given as `attention_mask`: [rows, 1, length, length].

    0 where a query may look: at itself and earlier in its own document (positions restart at 0), else -inf.
    """
    document = (positions == 0).cumsum(1)
    length = positions.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=positions.device).triu_(1)
    hidden = (document[:, :, None] != document[:, None, :]) | later
    return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, -torch.inf)[:, None]


def fellows(positions: Tensor) -> Tensor:
    """The mask of packed rows for an encoder: [rows, 1, length, length], True within a document."""
    document = (positions == 0).cumsum(1)
    return (document[:, :, None] == document[:, None, :])[:, None]


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Within the block the model attends as above; afterwards as before."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _forward(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """[rows, heads, length, head_dim] each; the result is [rows, length, heads, head_dim]."""
    if attention_mask is not None and attention_mask.dtype == torch.int32:
        if _fits_flash(module, query, settings):
            return _apart(query, key, value, attention_mask.flatten(), settings), None
        attention_mask = isolation(_positions(attention_mask.flatten(), query), query.dtype)
    attention_mask = _within(settings.get("sliding_window"), attention_mask, query, key)
    added = _added(attention_mask, query, key)
    if added is None:
        if attention_mask is not None and attention_mask.is_floating_point():
            attention_mask = attention_mask.to(query.dtype)  # made before FSDP cast the weights
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
        return output, None
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    scaled = query * (settings.get("scaling") or query.shape[-1] ** -0.5)
    before = key.shape[2] - query.shape[2]  # keys of a learned prefix, or of what was decoded so far
    parts = []
    for start in range(0, query.shape[2], BLOCK):
        end = min(start + BLOCK, query.shape[2])
        seen = before + end
        scores = scaled[:, :, start:end] @ key[:, :, :seen].transpose(2, 3)
        shares = torch.softmax(scores.add_(added[:, :, start:end, :seen]), -1)
        parts.append(F.dropout(shares, settings.get("dropout", 0.0), module.training) @ value[:, :, :seen])
    output = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return output.transpose(1, 2).contiguous(), None


def _fits_flash(module: Any, query: Tensor, settings: dict[str, Any]) -> bool:
    dropped = module.training and settings.get("dropout", 0.0) > 0
    return not dropped and query.shape[-1] <= MAX_FLASH_DIM and query.shape[-1] % 8 == 0


def _within(window: int | None, mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """`mask`, one of ours, without the keys that lie further back than a layer's sliding window lets it see."""
    if window is None or mask is None or not mask.is_floating_point() or key.shape[2] <= window:
        return mask
    places = torch.arange(key.shape[2], device=query.device)
    distance = places[-query.shape[2] :, None] - places
    return mask.masked_fill(distance >= window, -torch.inf)


def _apart(query: Tensor, key: Tensor, value: Tensor, begins: Tensor, settings: dict[str, Any]) -> Tensor:
    """Causal attention within each document: [rows, heads, length, head_dim] -> [rows, length, heads, head_dim]."""
    rows, heads, length, size = query.shape
    query, key, value = (x.transpose(1, 2).reshape(rows * length, -1, size) for x in (query, key, value))
    scale, shared, window = settings.get("scaling"), heads != key.shape[1], settings.get("sliding_window") or 0
    behind = window - 1  # of the keys before its own that a token sees; -1: all
    found: Any = varlen_attn(
        query, key, value, begins, begins, length, length, scale=scale, window_size=(behind, 0), enable_gqa=shared
    )
    return found.view(rows, length, heads, size)  # type: ignore[no-any-return]


def _positions(begins: Tensor, query: Tensor) -> Tensor:
    """The positions [rows, length] that `bounds` was made of."""
    rows, _, length, _ = query.shape
    places = torch.arange(rows * length, device=query.device)
    document = torch.bucketize(places, begins[1:-1].long(), right=True)
    return (places - begins.long()[document]).view(rows, length)


def _added(mask: Tensor | None, query: Tensor, key: Tensor) -> Tensor | None:
    """The mask as numbers to be added to scores, or None where torch's own attention is to do the work."""
    if query.device.type != "cpu":
        return None
    if mask is None:  # causal; the newest token sees all
        return query.new_zeros(1, 1, 1, key.shape[2]) if query.shape[2] == 1 else None
    if mask.dtype == torch.bool:  # a query that is padding sees nothing: numbers that are finite keep it from NaN
        return query.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(query.dtype).min)
    return mask


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
