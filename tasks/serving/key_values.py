"""Keys and values of all answers that are decoded together, in one tensor per layer, and those of earlier texts.

Rows have different lengths, begin at position 0 and are not padded: a new token is written behind the last one of its
row. Rows that are decoded come first, so that a forward pass reads a view and copies nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

MIN_SHARED = 8  # tokens: copying fewer keys and values gains nothing
GROWTH = 64  # tokens by which the tensors grow at least
Tokens = npt.NDArray[np.int64]


@dataclass(eq=False, slots=True)
class Window:
    """Where the present forward pass writes: rows [first, first + len(starts)), each from `starts` on."""

    first: int = 0
    starts: Sequence[int] = ()
    length: int = 0  # new tokens per row
    end: int = 0  # the largest position that is read, plus 1
    rows: Tensor = field(default_factory=lambda: torch.empty(0))  # 0, 1 ... and `starts` as tensors
    places: Tensor = field(default_factory=lambda: torch.empty(0))


class _Layer(CacheLayerMixin):  # type: ignore[misc]  # transformers has no types
    """Keys and values of one layer: [rows, heads, positions, width]."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window
        self.rows = self.positions = 0

    def resize(self, rows: int, positions: int, used_rows: int, used: int) -> None:
        """Make room; keep `used` positions of `used_rows` rows."""
        self.rows, self.positions = rows, positions
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(rows, old.shape[1], positions, old.shape[3])
            new[:used_rows, :, :used] = old[:used_rows, :, :used]
            setattr(self, name, new)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        for name, states in (("keys", key_states), ("values", value_states)):
            setattr(self, name, states.new_zeros(self.rows, states.shape[1], self.positions, states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.window
        last = window.first + len(window.starts)
        keys, values = self.keys[window.first : last], self.values[window.first : last]
        if window.length == 1:
            keys[window.rows, :, window.places] = key_states[:, :, 0]
            values[window.rows, :, window.places] = value_states[:, :, 0]
        else:
            for row, start in enumerate(window.starts):
                keys[row, :, start : start + window.length] = key_states[row]
                values[row, :, start : start + window.length] = value_states[row]
        return keys[:, :, : window.end], values[:, :, : window.end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.window.end, 0

    def get_seq_length(self) -> int:
        return max(self.window.starts, default=0)

    def get_max_length(self) -> int:
        return -1


Stored = list[tuple[Tensor, Tensor]]  # keys and values of each layer, [heads, positions, width]


class KeyValues(Cache):  # type: ignore[misc]  # transformers has no types
    """The keys and values of all rows."""

    def __init__(self, num_layers: int) -> None:
        self.window = Window()
        super().__init__(layers=[_Layer(self.window) for _ in range(num_layers)])
        self.rows = self.positions = 0

    def reserve(self, rows: int, positions: int, used_rows: int, used: int) -> None:
        """Make room for `rows` rows with `positions` positions."""
        if rows > self.rows or positions > self.positions:
            self.rows = max(rows, self.rows)
            self.positions = max(-(-positions // GROWTH) * GROWTH, self.positions)
            for layer in self.layers:
                layer.resize(self.rows, self.positions, used_rows, min(used, self.positions))

    def release_all(self) -> None:
        """Give the memory back when there are no rows."""
        self.rows = self.positions = 0
        for layer in self.layers:
            layer.keys = layer.values = None
            layer.is_initialized, layer.rows, layer.positions = False, 0, 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a row to another row."""
        for layer in self.layers:
            for tensor in (layer.keys, layer.values):
                tensor[target, :, :length] = tensor[source, :, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` positions of two rows."""
        for layer in self.layers:
            for tensor in (layer.keys, layer.values):
                copy = tensor[one, :, :length].clone()
                tensor[one, :, :length] = tensor[other, :, :length]
                tensor[other, :, :length] = copy

    def read(self, row: int, length: int) -> Stored:
        """A copy of the first `length` positions of a row."""
        return [(layer.keys[row, :, :length].clone(), layer.values[row, :, :length].clone()) for layer in self.layers]

    def write(self, row: int, stored: Stored, length: int) -> None:
        """Write the first `length` positions of a row."""
        for layer, (keys, values) in zip(self.layers, stored, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[row, :, :length] = keys[:, :length]
            layer.values[row, :, :length] = values[:, :length]


@dataclass(eq=False, slots=True)
class _Entry:
    tokens: Tokens
    stored: Stored


class PrefixStore:
    """Keys and values of texts that were answered, the last used ones up to `max_tokens` tokens together."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens, self._entries = max_tokens, list[_Entry]()  # the last used one is last
        self.num_tokens = 0

    def find(self, tokens: Tokens) -> tuple[int, Stored | None]:
        """The longest stored beginning of `tokens`: its length, at most all but one, and its keys and values."""
        best, length = None, 0
        for entry in self._entries:
            common = common_length(entry.tokens, tokens)
            if common > length:
                best, length = entry, common
        if best is None or length < MIN_SHARED:
            return 0, None
        self._entries.remove(best)
        self._entries.append(best)
        return min(length, len(tokens) - 1), best.stored

    def is_known(self, tokens: Tokens) -> bool:
        """Whether an entry begins with `tokens`."""
        return any(common_length(entry.tokens, tokens) == len(tokens) for entry in self._entries)

    def add(self, tokens: Tokens, stored: Stored) -> None:
        """Store a text in place of those that it begins with."""
        if len(tokens) > self._max_tokens:
            return
        for entry in list(self._entries):
            if common_length(entry.tokens, tokens) == len(entry.tokens):
                self._remove(entry)
        self._entries.append(_Entry(tokens, stored))
        self.num_tokens += len(tokens)
        while self.num_tokens > self._max_tokens:
            self._remove(self._entries[0])

    def _remove(self, entry: _Entry) -> None:
        self._entries.remove(entry)
        self.num_tokens -= len(entry.tokens)


def common_length(one: Tokens, other: Tokens) -> int:
    """The number of equal tokens at the beginning of two texts."""
    length = min(len(one), len(other))
    if not length or one[0] != other[0]:
        return 0
    different = one[:length] != other[:length]
    first = int(different.argmax())
    return first if different[first] else length
