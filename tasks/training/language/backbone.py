"""The backbone: from packed ids to the hidden states that enter the head, also with adapters or a soft prompt.

Documents in one row do not attend to each other. Each of them attends to the soft prompt, as if it stood directly
behind it. The prompt attends to no document, so one copy of it serves all documents of a row.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks import peft
from tasks.training.language import attention


def last_hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """The last hidden states of every token: ids, positions [rows, length] -> [rows, length, width]."""
    return hidden_and_load_balancing_loss(model, ids, positions)[0]


def hidden_and_load_balancing_loss(model: Any, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
    """As `last_hidden`, and the load-balancing loss of a mixture of experts (None for other models).

    The loss is that of Switch Transformers (arXiv:2101.03961, equation 4), multiplied by the model's own coefficient.
    """
    base = peft.base_model(model)
    inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    prompt_length = peft.num_virtual_tokens(model)
    if prompt_length:
        mask = attention.packed_causal_mask(positions, base.dtype)
        inputs |= _behind_soft_prompt(model, base, ids, positions, mask, prompt_length)
    else:
        inputs["attention_mask"] = attention.packed_mask(positions, base.dtype)
    has_experts = bool(getattr(base, "num_experts", None))
    output = base.base_model(**inputs, **({"output_router_logits": True} if has_experts else {}))
    hidden: Tensor = output.last_hidden_state[:, -ids.shape[1] :]  # without the states of the prompt
    return hidden, _load_balancing_loss(base, output.router_logits) if has_experts else None


def _load_balancing_loss(model: Any, router_logits: tuple[Tensor, ...]) -> Tensor:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    loss: Tensor = load_balancing_loss_func(router_logits, model.num_experts, model.num_experts_per_tok)
    return loss * float(model.router_aux_loss_coef)


def head_weight(model: Any) -> Tensor:
    """The matrix that turns hidden states into logits, [vocab, width]."""
    layer = model.get_output_embeddings()
    tokens = getattr(layer, "token_adapter", None)  # LoRA that trains rows of new tokens, too
    weight: Tensor = layer.weight if tokens is None else tokens.get_merged_weights(tokens.active_adapters)
    return weight


def _behind_soft_prompt(
    model: Any, base: Any, ids: Tensor, positions: Tensor, mask: Tensor, prompt_length: int
) -> dict[str, Any]:
    """The inputs of the backbone that differ when a soft prompt precedes the rows; `mask` is that of the rows alone."""
    prompt = model.get_prompt(len(ids))
    token_mask = F.pad(mask, (prompt_length, 0))  # every token attends to the whole prompt
    if not isinstance(prompt, Tensor):  # prefix tuning: keys and values of each layer, as a cache
        return {"past_key_values": prompt, "position_ids": positions + prompt_length, "attention_mask": token_mask}
    shape = prompt_length, prompt_length + ids.shape[1]
    prompt_mask = torch.full(shape, -torch.inf, dtype=mask.dtype, device=mask.device).triu_(1)
    prompt_positions = torch.arange(prompt_length, device=ids.device).expand(len(ids), -1)
    embedded = base.get_input_embeddings()(ids)
    return {
        "input_ids": None,
        "inputs_embeds": torch.cat((prompt.to(embedded.dtype), embedded), 1),
        "position_ids": torch.cat((prompt_positions, positions + prompt_length), 1),
        "attention_mask": torch.cat((prompt_mask.expand(len(ids), 1, -1, -1), token_mask), 2),
    }
