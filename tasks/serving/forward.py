"""Forward passes over rows of different lengths that have their keys and values in `KeyValues`."""

from collections.abc import Sequence
from typing import Any

import psutil
import torch
from torch import Tensor

from tasks import peft
from tasks.answers import device_of
from tasks.causal import backbone, heads
from tasks.serving.key_values import KeyValues

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
TOLERANCE, TOLERANCE_16_BITS = 2e-3, 0.15  # nats
MIN_CACHE_TOKENS = 4096
CHECK_LENGTHS, NUM_CHECK_TOKENS = (5, 23, 12), 3


class Forward:
    """One model and the keys and values of the rows that it decodes."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = peft.base_model(model).config.get_text_config()
        self.key_values = KeyValues(int(self.config.num_hidden_layers))
        self.num_virtual = peft.num_virtual_tokens(model)
        self._last_position = backbone.context_length(model) - 1
        self._kinds = _attention_kinds(self.config)
        self._device, self._dtype = device_of(model), next(model.parameters()).dtype

    def states(self, first: int, ids: Sequence[Sequence[int]], starts: Sequence[int]) -> Tensor:
        """Process new tokens of the rows first, first + 1 ...; return their last hidden states [rows, length, width].

        ids: the new tokens of each row, of one length (padded at the end); starts: the number of earlier tokens of each
        row, without those of a soft prompt.
        """
        length = len(ids[0])
        begin = [start + self.num_virtual for start in starts]
        window = self.key_values.window
        window.first, window.starts, window.length, window.end = first, begin, length, max(begin) + length
        window.rows, window.places = torch.arange(len(begin)), torch.tensor(begin)
        positions = window.places[:, None] + torch.arange(length)
        output = backbone.run(
            self.model,
            None,
            input_ids=torch.tensor(ids).to(self._device),
            attention_mask=self._masks(positions, window.end),
            # Padding may lie behind the last position of the model.
            position_ids=positions.clamp(max=self._last_position).to(self._device),
            past_key_values=self.key_values,
            use_cache=True,
        )
        states: Tensor = output[0]
        return states

    def logits(self, states: Tensor) -> Tensor:
        """The logits of hidden states [..., width]."""
        return heads.logits(self.model, states)

    def write_soft_prompt(self, row: int) -> None:
        """Write the keys and values of the virtual tokens of an adapter to the beginning of a row."""
        if not self.num_virtual:
            return
        prompt, cache, _ = backbone.soft_prompt(self.model, 1)
        if cache is None:
            from transformers import DynamicCache

            cache = DynamicCache(config=self.config)
            backbone.run(self.model, None, inputs_embeds=prompt, past_key_values=cache, use_cache=True)
        stored = [(layer.keys[0].detach(), layer.values[0].detach()) for layer in cache.layers]
        self.key_values.write(row, stored, self.num_virtual)

    def _masks(self, positions: Tensor, end: int) -> Tensor | dict[str, Tensor]:
        masks = {kind: self._mask(kind, positions, end) for kind in self._kinds}
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def _mask(self, kind: str, positions: Tensor, end: int) -> Tensor:
        """What is added to the scores of attention: [rows, 1, length, end]."""
        query, key = positions[:, :, None], torch.arange(end)
        visible = key <= query
        if kind == SLIDING:
            visible &= key > query - int(self.config.sliding_window)
        elif kind == CHUNKED:
            size = int(self.config.attention_chunk_size)
            visible &= key // size == query // size
        if self.num_virtual:
            visible |= key < self.num_virtual
        mask = torch.zeros(visible.shape, dtype=self._dtype).masked_fill_(~visible, torch.finfo(self._dtype).min)
        return mask[:, None].to(self._device)


def _attention_kinds(config: Any) -> tuple[str, ...]:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return tuple(sorted(set(kinds)))
    is_sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return (SLIDING,) if is_sliding else (FULL,)


@torch.no_grad()
def difference(model: Any, vocab_size: int) -> float:
    """How much `Forward` differs from the model's own forward pass on random texts, in nats.

    Rows of different lengths are read in two parts, decoded together, and one of them begins with copied keys. Raises
    what the model raises, if it cannot use the keys and values of rows.
    """
    generator = torch.Generator().manual_seed(0)
    low, high = vocab_size // 8, vocab_size
    texts = [
        torch.randint(low, high, (length + NUM_CHECK_TOKENS,), generator=generator).tolist() for length in CHECK_LENGTHS
    ]
    texts.append(texts[1][:10] + texts[0])
    lengths = [len(text) - NUM_CHECK_TOKENS for text in texts]
    forward = Forward(model)
    cached = _cached_logits(forward, texts, lengths)
    differences = []
    for row, text in enumerate(texts):
        hidden = backbone.alone(model, torch.tensor([text]).to(device_of(model))).hidden[0]
        expected = forward.logits(hidden[lengths[row] :]).float().log_softmax(-1)
        differences.append((cached[row].float().log_softmax(-1) - expected).abs().max())
    return float(torch.stack(differences).max())  # unlike Python's max, it keeps NaN


def _cached_logits(forward: Forward, texts: list[list[int]], lengths: list[int]) -> list[Tensor]:
    """The logits at the last NUM_CHECK_TOKENS tokens of each text, computed as the engine does: [tokens, vocab]."""
    num_virtual, shared = forward.num_virtual, 10
    forward.key_values.reserve(len(texts), max(map(len, texts)) + num_virtual, 0, 0)
    longest = max(lengths[:-1])
    for row in range(len(texts)):
        forward.write_soft_prompt(row)
    padded = [text[:length] + [text[0]] * (longest - length) for text, length in zip(texts, lengths, strict=True)][:-1]
    forward.states(0, [ids[:4] for ids in padded], [0] * len(padded))
    forward.states(0, [ids[4:] for ids in padded], [4] * len(padded))
    last = len(texts) - 1
    forward.key_values.write(last, forward.key_values.read(1, shared + num_virtual), shared + num_virtual)
    forward.states(last, [texts[last][shared : lengths[last]]], [shared])
    steps = [
        forward.logits(
            forward.states(
                0,
                [[text[length + step]] for text, length in zip(texts, lengths, strict=True)],
                [length + step for length in lengths],
            )[:, -1]
        )
        for step in range(NUM_CHECK_TOKENS)
    ]
    return list(torch.stack(steps, 1))


def problem(model: Any, vocab_size: int) -> str | None:
    """Why rows of different lengths cannot be decoded together with the model's own numbers; None if they can."""
    dtype = next(model.parameters()).dtype
    tolerance = TOLERANCE if dtype == torch.float32 else TOLERANCE_16_BITS
    try:
        worst = difference(model, vocab_size)
    except Exception as error:  # the code of the model, which may be anyone's: what it raises becomes the reason
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return None if worst < tolerance else f"log-probabilities differ by {worst:.2g} nats, more than {tolerance:g}"


def affordable_tokens(forward: Forward, share: float) -> int:
    """The number of tokens whose keys and values fit into a share of the free memory; at least one context."""
    config = forward.config
    heads_of_keys: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    element_size = next(forward.model.parameters()).element_size()
    num_bytes: int = 2 * config.num_hidden_layers * heads_of_keys * width * element_size
    least = min(backbone.context_length(forward.model), MIN_CACHE_TOKENS)
    return max(least, int(psutil.virtual_memory().available * share) // num_bytes)
