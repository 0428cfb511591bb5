"""Which tokens of a row see which others, for rows with several documents or with several answers to one prompt.

Almost all models of transformers build their attention masks from functions of (query, key): causal, sliding window,
chunks. Within `active`, these functions receive the positions that the tokens have in their own texts, not their places
in the row, and only tokens of one text see each other. So a mask is right for any window, wherever a text stands.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function, eager_mask, sdpa_mask

from tasks.errors import BadModel

NAME = "athanor"  # of the attention of attention.py
MIN_FLASH_CAPABILITY = (8, 0)  # Ampere
MaskFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Layout:
    """The texts of packed rows; none of their tokens is a query before its text begins.

    positions: int64 [rows, length], of each token in its text; a text starts where it is 0. part: int64 [rows, length]
    for a prompt with several answers: 0 in the prompt, k in its k-th answer, -1 for padding. num_virtual: tokens of a
    soft prompt, which every token sees; virtual_queries: whether they are inputs of the model too, and not in a cache.
    """

    positions: Tensor
    part: Tensor | None = None
    num_virtual: int = 0
    virtual_queries: bool = False

    @cached_property
    def visible(self) -> Tensor:
        """Which keys each query sees without any window: bool [rows, queries, keys]."""
        rows, length = self.positions.shape
        is_earlier = torch.ones(length, length, dtype=torch.bool, device=self.positions.device).tril_()
        if self.part is None:
            document = (self.positions == 0).cumsum(1)
            visible = (document[:, :, None] == document[:, None, :]) & is_earlier
        else:
            # Padding (part -1) sees the prompt and other padding: without any key, softmax would give NaN.
            key, query = self.part[:, None, :], self.part[:, :, None]
            visible = ((key == 0) | (key == query)) & is_earlier
        if not self.num_virtual:
            return visible
        visible = F.pad(visible, (self.num_virtual, 0), value=True)
        if not self.virtual_queries:
            return visible
        shape = self.num_virtual, self.num_virtual + length
        prompt = torch.ones(shape, dtype=torch.bool, device=visible.device).tril_()
        return torch.cat((prompt.expand(rows, -1, -1), visible), 1)

    @cached_property
    def key_positions(self) -> Tensor:
        """The position of each key in its text, in which a soft prompt comes first: [rows, keys]."""
        if not self.num_virtual:
            return self.positions
        virtual = torch.arange(self.num_virtual, device=self.positions.device).expand(len(self.positions), -1)
        return torch.cat((virtual, self.positions + self.num_virtual), 1)

    @property
    def query_positions(self) -> Tensor:
        """The position of each query in its text: [rows, queries]."""
        return self.key_positions if self.virtual_queries else self.key_positions[:, self.num_virtual :]

    @property
    def is_packed_documents(self) -> bool:
        """Whether the rows contain nothing but whole documents, one after the other."""
        return self.part is None and not self.num_virtual

    def allowed(self, mask_function: MaskFunction) -> Tensor:
        """Which keys each query sees under `mask_function`: bool [rows, 1, queries, keys]."""
        visible = self.visible[:, None]
        if mask_function is causal_mask_function:
            return visible
        device = visible.device
        row = torch.arange(len(visible), device=device)[:, None, None, None]
        head = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
        query, key = self.query_positions[:, None, :, None], self.key_positions[:, None, None, :]
        return visible & mask_function(row, head, query, key)


_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)


@contextmanager
def active(layout: Layout | None) -> Iterator[None]:
    """Within the block, models build the masks of these rows; None leaves their masks as they are."""
    if layout is None:
        yield
        return
    token = _layout.set(layout)
    for name, function in (("sdpa", _sdpa), ("eager", _eager)):
        ALL_MASK_ATTENTION_FUNCTIONS[name] = function
    try:
        yield
    finally:
        _layout.reset(token)
        for name in ("sdpa", "eager"):
            del ALL_MASK_ATTENTION_FUNCTIONS[name]


def additive(allowed: Tensor, dtype: torch.dtype, masked: float = -torch.inf) -> Tensor:
    """0 where `allowed`, else `masked`."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, masked)


def _mask(convert: Callable[..., Any], otherwise: Callable[..., Any], **arguments: Any) -> Any:
    """The mask that transformers asks for: that of the active rows, or `otherwise` without any."""
    layout = _layout.get()
    if layout is None:
        return otherwise(**arguments)
    if arguments.get("use_vmap"):
        raise BadModel("the mask of the model depends on more than the distance of two tokens")
    return convert(layout, arguments.get("mask_function", causal_mask_function), arguments)


def _own(layout: Layout, mask_function: MaskFunction, arguments: dict[str, Any]) -> Tensor:
    """For the attention of attention.py: an additive mask, or cu_seqlens where flash attention runs."""
    dtype = arguments.get("dtype", torch.float32)
    if layout.is_packed_documents and has_flash_attention(layout.positions.device, dtype):
        window, local_size = getattr(arguments.get("config"), "sliding_window", None), arguments.get("local_size")
        # The layers give the size of their window to flash attention themselves; it knows no other restriction.
        if mask_function is causal_mask_function or (local_size is not None and local_size == window):
            return cu_seqlens(layout.positions)
    return additive(layout.allowed(mask_function), dtype)


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


_sdpa = partial(_mask, lambda layout, function, _: layout.allowed(function), sdpa_mask)
_eager = partial(
    _mask,
    lambda layout, function, arguments: additive(
        layout.allowed(function), arguments["dtype"], torch.finfo(arguments["dtype"]).min
    ),
    eager_mask,
)
AttentionMaskInterface.register(NAME, partial(_mask, _own, sdpa_mask))
