"""From token ids to the hidden states that enter the head, of any causal model, also with adapters or a soft prompt.

Texts in one row do not attend to each other. Each of them attends to the soft prompt, as if it stood directly behind
it. The prompt attends to no text, so one copy of it serves all texts of a row.
"""

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tasks import peft
from tasks.causal import masks, methods
from tasks.causal.masks import Layout

MAX_PADDING_SHARE = 0.25  # of a text, where texts of different lengths are read together
CONTEXT_KEYS = ("max_position_embeddings", "max_seq_len", "context_length")  # of configs, the first that exists
Span = tuple[int, int, int]  # (row, start, end) of a text


@dataclass(frozen=True)
class Output:
    """hidden: [rows, length, width]. router_logits: of each layer of a mixture of experts, if they were asked for."""

    hidden: Tensor
    router_logits: tuple[Tensor, ...] | None = None


def last_hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """The last hidden states of every token of packed rows: ids, positions [rows, length] -> [rows, length, width]."""
    return packed_output(model, ids, positions).hidden


def hidden_and_load_balancing_loss(model: Any, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
    """As `last_hidden`, and the load-balancing loss of a mixture of experts (None for other models).

    The loss is that of Switch Transformers (arXiv:2101.03961, equation 4), multiplied by the model's own coefficient.
    """
    base = peft.base_model(model)
    has_experts = bool(getattr(base, "num_experts", None)) and hasattr(base, "router_aux_loss_coef")
    output = packed_output(model, ids, positions, has_experts)
    return output.hidden, _load_balancing_loss(base, output.router_logits) if output.router_logits else None


def packed_output(model: Any, ids: Tensor, positions: Tensor, with_router_logits: bool = False) -> Output:
    """The output for packed rows; documents begin where `positions` [rows, length] are 0."""
    if methods.of(model).packing == "none":
        return by_document(model, ids, positions, with_router_logits)
    return with_layout(model, ids, positions, None, with_router_logits)


def with_layout(
    model: Any, ids: Tensor, positions: Tensor, part: Tensor | None = None, with_router_logits: bool = False
) -> Output:
    """The output for rows with several texts, read in one pass; `positions` and `part` as in masks.Layout."""
    prompt, cache, num_virtual = soft_prompt(model, len(ids))
    layout = Layout(positions, part, num_virtual, prompt is not None)
    inputs = _embedded(model, ids, prompt) | {"position_ids": layout.query_positions}
    if cache is not None:
        inputs["past_key_values"] = cache
    return _output(run(model, layout, with_router_logits, **inputs), ids.shape[1])


def alone(model: Any, ids: Tensor, with_router_logits: bool = False) -> Output:
    """The output for rows with one text each. Padding on the right changes nothing, because the model is causal.

    With the loss of the model itself, its logits are in the place of hidden states (heads.logits leaves them as they
    are).
    """
    if methods.of(model).loss == "model":
        return Output(model(input_ids=ids).logits[:, -ids.shape[1] :])
    prompt, cache, _ = soft_prompt(model, len(ids))
    inputs = _embedded(model, ids, prompt)
    if cache is not None:
        inputs |= {"past_key_values": cache, "use_cache": True}
    return _output(run(model, None, with_router_logits, **inputs), ids.shape[1])


def by_document(model: Any, ids: Tensor, positions: Tensor, with_router_logits: bool = False) -> Output:
    """The output for packed rows, of which each document is read by itself."""
    hidden, router_logits = list[Tensor](), list[tuple[Tensor, ...]]()
    order = list[Tensor]()
    for spans in _batches(_spans(positions), ids.numel(), methods.of(model).equal_lengths):
        lengths = [end - start for _, start, end in spans]
        padded = ids.new_zeros(len(spans), max(lengths))
        for number, (row, start, end) in enumerate(spans):
            padded[number, : end - start] = ids[row, start:end]
            order.append(torch.arange(start, end) + row * ids.shape[1])
        output = alone(model, padded, with_router_logits)
        is_token = torch.arange(padded.shape[1]) < torch.tensor(lengths)[:, None]
        hidden.append(output.hidden[is_token.to(ids.device)])
        router_logits += [output.router_logits] if output.router_logits else []
    flat = torch.cat(hidden)
    states = flat.new_zeros(flat.shape).index_copy(0, torch.cat(order).to(ids.device), flat)
    by_layer = tuple(torch.cat(layer) for layer in zip(*router_logits, strict=True)) or None
    return Output(states.view(*ids.shape, -1), by_layer)


def _spans(positions: Tensor) -> list[Span]:
    """The texts of packed rows; each token of padding (position 0) is a text by itself."""
    is_start = (positions == 0).cpu()
    is_start[:, 0] = True
    spans: list[Span] = []
    for row, starts in enumerate(is_start):
        borders = [*starts.nonzero().flatten().tolist(), positions.shape[1]]
        spans += [(row, start, end) for start, end in pairwise(borders)]
    return spans


def _batches(spans: Sequence[Span], max_tokens: int, equal_lengths: bool) -> Iterator[list[Span]]:
    """Texts of similar lengths, or of equal ones, with at most `max_tokens` tokens together."""
    batch: list[Span] = []
    for span in sorted(spans, key=lambda span: span[1] - span[2]):
        length = span[2] - span[1]
        longest = batch[0][2] - batch[0][1] if batch else length
        shortest = longest if equal_lengths else (1 - MAX_PADDING_SHARE) * longest
        if batch and (length < shortest or (len(batch) + 1) * longest > max_tokens):
            yield batch
            batch = []
        batch.append(span)
    if batch:
        yield batch


def run(model: Any, layout: Layout | None, with_router_logits: bool = False, **inputs: Any) -> Any:
    """Run the backbone of `model` on those of `inputs` that it has; with `layout`, on rows with several texts.

    A model without an input, such as BLOOM without positions, derives it from the others. Whether the numbers are then
    right is a question for the self-check.
    """
    module = backbone_of(peft.base_model(model))
    kind: Any = type(module)
    accepted = _parameters(kind)
    if layout is not None:
        inputs["attention_mask"] = torch.ones_like(layout.key_positions)
    if "past_key_values" in inputs and "past_key_values" not in accepted:
        inputs["cache_params"] = inputs["past_key_values"]
    inputs = {name: value for name, value in ({"use_cache": False} | inputs).items() if name in accepted}
    if with_router_logits:
        inputs["output_router_logits"] = True
    with masks.active(layout):
        return module(**inputs)


def backbone_of(base: Any) -> Any:
    """The module of a model of transformers that computes hidden states: the model without its head."""
    backbone = base.base_model
    if backbone is not base:
        return backbone
    from transformers import PreTrainedModel

    # Llama 4 has another name for it than its class says.
    return next((child for child in base.children() if isinstance(child, PreTrainedModel)), base)


def context_length(model: Any) -> int:
    """The number of positions that the model has; sys.maxsize if it has no limit."""
    return context_of(peft.base_model(model).config) or sys.maxsize


def context_of(config: Any) -> int | None:
    """The number of positions that a model with this config has; None if it has no limit."""
    config = config.get_text_config()
    return next((int(value) for key in CONTEXT_KEYS if (value := getattr(config, key, None))), None)


@lru_cache(maxsize=256)
def _parameters(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)


def _output(output: Any, length: int) -> Output:
    # States of virtual tokens come first.
    hidden: Tensor = output[0][:, -length:]
    return Output(hidden, getattr(output, "router_logits", None))


def _embedded(model: Any, ids: Tensor, prompt: Tensor | None) -> dict[str, Any]:
    """The inputs for `ids`: themselves, or the embeddings of a soft prompt and theirs."""
    return {"input_ids": ids} if prompt is None else {"inputs_embeds": embed_after(prompt, model, ids)}


def soft_prompt(model: Any, rows: int) -> tuple[Tensor | None, Any, int]:
    """The soft prompt in front of each of `rows` texts: (embeddings, cache, number of virtual tokens).

    Prompt tuning and p-tuning have embeddings, prefix tuning has keys and values (a cache), other models have neither.
    """
    num_virtual = peft.num_virtual_tokens(model)
    if not num_virtual:
        return None, None, 0
    prompt = model.get_prompt(rows)
    return (prompt, None, num_virtual) if isinstance(prompt, Tensor) else (None, prompt, num_virtual)


def embed_after(prompt: Tensor, model: Any, ids: Tensor) -> Tensor:
    """The embeddings of a soft prompt followed by those of `ids`: [rows, virtual tokens + length, hidden_size]."""
    embedded = peft.base_model(model).get_input_embeddings()(ids)
    return torch.cat((prompt.to(embedded.dtype), embedded), 1)


def _load_balancing_loss(model: Any, router_logits: tuple[Tensor, ...]) -> Tensor:
    from transformers.models.mixtral import modeling_mixtral

    module = sys.modules[type(model).__module__]
    function: Callable[..., Tensor] = getattr(
        module, "load_balancing_loss_func", modeling_mixtral.load_balancing_loss_func
    )
    return function(router_logits, model.num_experts, model.num_experts_per_tok) * float(model.router_aux_loss_coef)
