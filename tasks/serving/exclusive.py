"""One answer at a time by the model's own `generate`, for models whose state cannot be kept in rows of one tensor."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tasks.answers import device_of
from tasks.causal import backbone, heads, own_generation
from tasks.serving.requests import Request, TokenLogProb
from tasks.serving.sampling import Sampler, prompt_log_probs


def decode(model: Any, request: Request, pad_id: int, append: Callable[[TokenLogProb], bool]) -> None:
    """Write the answer to `request`. `append` gets each token and returns whether the answer is complete."""
    sampler = Sampler([request])

    def draw(logits: Tensor, _: Tensor) -> tuple[Tensor, bool]:
        (drawn,) = sampler.draw(logits)
        return torch.tensor([drawn.token], device=logits.device), append(drawn)

    ids = torch.tensor([list(request.ids)]).to(device_of(model))
    own_generation.decode(model, ids, request.max_tokens, pad_id, draw)


def prompt(model: Any, request: Request) -> list[TokenLogProb]:
    """The log-probabilities of the tokens of the prompt; that of the first one is NaN."""
    ids = list(request.ids)
    hidden = backbone.alone(model, torch.tensor([ids]).to(device_of(model))).hidden[0]
    first = TokenLogProb(ids[0], float("nan"))
    if len(ids) == 1:
        return [first]
    return [first, *prompt_log_probs(heads.logits(model, hidden[:-1]), ids[1:], request.num_prompt_top or 0)]
