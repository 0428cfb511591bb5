"""From packed ids to what enters the head, for a plain model, one with adapters in its layers, or learned prompts.

Documents packed into a row do not see each other, and each of them sees the learned prompt, as if it stood alone behind
it: the prompt sees no document, so one copy of it serves all of a row.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.training.language import attention


def last_hidden(model: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """The last hidden states of every token: ids, positions [rows, length] -> [rows, length, width]."""
    return hidden_and_balance(model, ids, positions)[0]


def hidden_and_balance(model: Any, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
    """As `last_hidden`, and for a mixture of experts what its router adds to the loss, else None.

    That is Switch Transformers' balance (arXiv:2101.03961, equation 4) as the model's own class weighs it.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    count = num_virtual(model)
    if count:
        mask = attention.isolation(positions, plain.dtype)
        inputs |= _after_prompt(model, plain, ids, positions, mask, count)
    else:
        inputs["attention_mask"] = attention.mask_of(positions, plain.dtype)
    experts = getattr(plain, "num_experts", None)
    found = plain.base_model(**inputs, **({"output_router_logits": True} if experts else {}))
    hidden: Tensor = found.last_hidden_state
    return hidden[:, hidden.shape[1] - ids.shape[1] :], _balance(plain, found.router_logits) if experts else None


def _balance(model: Any, router_logits: tuple[Tensor, ...]) -> Tensor:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    balance: Tensor = load_balancing_loss_func(router_logits, model.num_experts, model.num_experts_per_tok)
    return balance * float(model.router_aux_loss_coef)


def head_weight(model: Any) -> Tensor:
    """The matrix that turns hidden states into logits, [vocab, width]."""
    weight: Tensor = model.get_output_embeddings().weight
    return weight


def num_virtual(model: Any) -> int:
    """How many virtual tokens stand before the text; 0 for all but prompt and prefix tuning."""
    config = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if config is not None and config.is_prompt_learning else 0


def _after_prompt(model: Any, plain: Any, ids: Tensor, positions: Tensor, mask: Tensor, count: int) -> dict[str, Any]:
    """The inputs that change when learned prompts stand before the rows."""
    prompt = model.get_prompt(len(ids))
    seeing = F.pad(mask, (count, 0))  # every token may look at the whole prompt
    if not isinstance(prompt, Tensor):
        return {"past_key_values": prompt, "position_ids": positions + count, "attention_mask": seeing}
    own = torch.full((count, count + ids.shape[1]), -torch.inf, dtype=mask.dtype, device=mask.device).triu_(1)
    before = torch.arange(count, device=ids.device).expand(len(ids), -1)
    embedded = plain.get_input_embeddings()(ids)
    return {
        "input_ids": None,
        "inputs_embeds": torch.cat((prompt.to(embedded.dtype), embedded), 1),
        "position_ids": torch.cat((before, positions + count), 1),
        "attention_mask": torch.cat((own.expand(len(ids), 1, -1, -1), seeing), 2),
    }
