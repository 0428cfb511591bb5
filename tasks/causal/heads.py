"""From hidden states to logits, for any model: one function, which loss, log-probabilities and generation share.

Between hidden states and logits, models do more than multiply by a matrix: soft-caps (Gemma 2), scales (Cohere,
Granite), biases (Phi, GPT-J), whole layers (ModernBERT). All of it is in the forward pass of the model's own class. So
that pass is run with given hidden states in place of its backbone. Where the head is nothing but a matrix, which is
tried once for each model, the matrix is used directly.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

from tasks import peft
from tasks.causal import methods
from tasks.causal.backbone import backbone_of
from tasks.causal.losses import filled

NUM_PROBES = 4


def logits(model: Any, states: Tensor) -> Tensor:
    """The logits of hidden states [..., width]: [..., vocab_size]. By the loss of the model, the states are logits."""
    if methods.of(model).loss == "model":
        return states
    base = peft.base_model(model)
    if is_matrix(base):
        rows = states.reshape(-1, states.shape[-1])
        result: Tensor = base.get_output_embeddings()(filled(rows))
        return result[: len(rows)].view(*states.shape[:-1], -1)
    return _by_own_forward(base, states)


def head(model: Any) -> Tensor | Callable[[Tensor], Tensor]:
    """The matrix [vocab, width] that is the whole head of `model`, or the function `logits` if it is more than that."""
    if methods.of(model).loss == "model":
        return lambda states: states
    base = peft.base_model(model)
    weight: Tensor | Callable[[Tensor], Tensor]
    weight = base.get_output_embeddings().weight if is_matrix(base) else partial(_by_own_forward, base)
    return weight


def device(model: Any) -> torch.device:
    """The device of the head."""
    layer = peft.base_model(model).get_output_embeddings()
    weight: Tensor = layer.weight if layer is not None else next(model.parameters())
    return weight.device


def is_matrix(base: Any) -> bool:
    """Whether the head of a model of transformers is nothing but a matrix; tried once for each model."""
    result = getattr(base, "_athanor_head_is_matrix", None)
    if result is None:
        result = base._athanor_head_is_matrix = _try_matrix(base)
    return bool(result)


@torch.no_grad()
def _try_matrix(base: Any) -> bool:
    layer = base.get_output_embeddings()
    # An adapter may have wrapped the layer, and a quantized one multiplies in its own way.
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward or layer.bias is not None:
        return False
    weight = layer.weight
    generator = torch.Generator().manual_seed(0)
    states = 10 * torch.randn(NUM_PROBES, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    actual = _by_own_forward(base, states)
    return actual.shape[-1] == weight.shape[0] and torch.equal(actual, layer(states).to(actual.dtype))


def scores(model: Any, states: Tensor) -> Tensor:
    """The scores that a reward model gives to hidden states [n, width] of last tokens: float32 [n]."""
    base = peft.base_model(model)
    layer = scores_layer(base)
    states = states.to(next(layer.parameters()).dtype)  # in fp32 where the trunk is in 16 bits
    # A class with another layer before this one, such as that of ModernBERT's decoder, computes more than a product.
    is_all = layer is getattr(base, "score", None)
    result: Tensor = layer(states) if is_all else _by_own_forward(base, states[:, None])
    return result.squeeze(-1).float()


def scores_layer(model: Any) -> Any:
    """The last layer of a reward model, which computes the score."""
    base = peft.base_model(model)
    return base.score if hasattr(base, "score") else base.classifier


def _by_own_forward(base: Any, states: Tensor) -> Tensor:
    """The logits that the forward pass of the class of `base` computes from the hidden states [..., length, width]."""
    backbone = backbone_of(base)
    name = next(name for name, child in base.named_children() if child is backbone)
    rows = states.reshape(-1, *states.shape[-2:]) if states.ndim > 1 else states[None, None]
    base._modules[name] = _GivenStates(backbone, rows)
    # A reward model searches the last token that is not padding.
    ids = torch.full(
        rows.shape[:2], (getattr(base.config.get_text_config(), "pad_token_id", None) or 0) + 1, device=rows.device
    )
    try:
        # Not `base(...)`: hooks of the model, such as those of FSDP, concern the whole pass.
        result: Tensor = type(base).forward(base, input_ids=ids).logits
    finally:
        base._modules[name] = backbone
    return result.reshape(*states.shape[:-1], -1) if result.ndim == 3 else result


class _GivenStates(nn.Module):
    """Takes the place of a backbone and returns the same hidden states for any input."""

    def __init__(self, backbone: nn.Module, states: Tensor) -> None:
        super().__init__()
        self.__dict__["original"], self.states = backbone, states

    def forward(self, *_: Any, **__: Any) -> Any:
        return _Output(last_hidden_state=self.states)

    def __getattr__(self, name: str) -> Any:
        """Whatever else the forward pass reads from its backbone, such as the embeddings that its head shares."""
        if name == "decoder":
            return self
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.original, name)


class _Output(BaseModelOutputWithPast):  # type: ignore[misc]  # transformers has no types
    def __getattr__(self, _: str) -> None:
        """None for everything that a backbone may return besides hidden states."""
        return
