"""Decoding by the model's own `generate`, for models whose state our cached batches do not carry correctly.

`generate` of transformers knows the caches and states of every family. The tokens are still drawn by us: a logits
processor draws each of them and leaves `generate` no other choice.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tasks import peft
from tasks.causal.backbone import backbone_of
from tasks.errors import BadModel

Draw = Callable[[Tensor, Tensor], tuple[Tensor, bool]]
"""(logits [rows, vocab_size], last hidden states [rows, width]) -> (tokens [rows], whether all rows are complete)."""


def decode(model: Any, ids: Tensor, max_new_tokens: int, pad_id: int, draw: Draw) -> None:
    """Let `draw` choose up to `max_new_tokens` tokens after prompts of one length, ids [rows, length].

    Raises BadModel for a model with a soft prompt.
    """
    from transformers import GenerationConfig

    if peft.num_virtual_tokens(model):
        raise BadModel(
            "a model with a soft prompt (adapter prompt_tuning, p_tuning or prefix_tuning) cannot generate by its own "
            "`generate`. Set generation: cached, or use adapter lora or ia3."
        )
    base = peft.base_model(model)
    states: list[Tensor] = []
    is_complete: list[bool] = []

    def processor(_: Tensor, scores: Tensor) -> Tensor:
        tokens, complete = draw(scores, states[-1])
        is_complete[:] = [complete]
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    def criterion(input_ids: Tensor, _: Any, **__: Any) -> Tensor:
        return torch.full((len(input_ids),), is_complete[0], dtype=torch.bool, device=input_ids.device)

    def keep_states(_: Any, __: Any, output: Any) -> None:
        states[:] = [output[0][:, -1]]

    hook = backbone_of(base).register_forward_hook(keep_states)
    # `generate` takes from here what its settings leave open: penalties, minimal lengths, forced tokens.
    own_config, base.generation_config = base.generation_config, GenerationConfig()
    settings = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad_id)
    try:
        base.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings,
            logits_processor=[processor], stopping_criteria=[criterion],
        )  # fmt: skip
    finally:
        hook.remove()
        base.generation_config = own_config
