"""A plain decoder, written out as in textbooks, computes the same logits as the model of transformers.

docs/transformer.md explains the model by quoting this file.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tasks.causal.losses import linear_cross_entropy
from tests.training.models import small_model

Weights = dict[str, Tensor]


def decoder(ids: Tensor, w: Weights, num_layers: int, num_heads: int) -> Tensor:
    """ids [length] -> logits [length, vocabulary]."""
    x = w["embed_tokens.weight"][ids]
    for layer in range(num_layers):
        block = {name.removeprefix(f"layers.{layer}."): part for name, part in w.items()}
        x = x + attention(normalize(x, block["input_layernorm.weight"]), block, num_heads)
        x = x + feed_forward(normalize(x, block["post_attention_layernorm.weight"]), block)
    return normalize(x, w["norm.weight"]) @ w["embed_tokens.weight"].T  # the head is the transposed embedding


def attention(x: Tensor, w: Weights, num_heads: int) -> Tensor:
    """Each position compares its query with the keys up to itself and takes the weighted mean of their values."""
    length, width = x.shape
    query, key, value = (
        (x @ w[f"self_attn.{name}_proj.weight"].T).view(length, num_heads, -1).transpose(0, 1) for name in "qkv"
    )
    scores = rotate(query) @ rotate(key).transpose(1, 2) / math.sqrt(width // num_heads)
    is_later = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(is_later, -math.inf).softmax(-1)
    heads = weights @ value
    return heads.transpose(0, 1).reshape(length, width) @ w["self_attn.o_proj.weight"].T


def rotate(x: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotate pairs of numbers by an angle that grows with the position, so that scores depend on distances."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * base ** (-torch.arange(half) / half)
    x1, x2 = x[..., :half], x[..., half:]
    return torch.cat((x1 * angle.cos() - x2 * angle.sin(), x2 * angle.cos() + x1 * angle.sin()), -1)


def feed_forward(x: Tensor, w: Weights) -> Tensor:
    """A gated MLP for each position by itself (SwiGLU)."""
    gate, up = x @ w["mlp.gate_proj.weight"].T, x @ w["mlp.up_proj.weight"].T
    return (gate * gate.sigmoid() * up) @ w["mlp.down_proj.weight"].T


def normalize(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each position to a root mean square of 1, and multiply by a learned factor per channel (RMSNorm)."""
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def weights_of(model: Any) -> Weights:
    return {name.removeprefix("model."): part for name, part in model.state_dict().items()}


def test_logits_equal_those_of_transformers() -> None:
    model = small_model("llama", num_layers=3, num_heads=4)
    for name, part in model.named_parameters():  # norms begin at one, which would hide a mistake
        if "norm" in name:
            part.data += 0.1 * torch.randn(part.shape, generator=torch.Generator().manual_seed(len(name)))
    ids = torch.randint(6, 300, (40,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = decoder(ids, weights_of(model), 3, 4), model(ids[None]).logits[0]
    assert (logits - expected).abs().max() < 1e-5


def test_the_loss_equals_the_training_loss() -> None:
    model = small_model("llama")
    ids = torch.randint(6, 300, (30,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = decoder(ids, weights_of(model), 2, 2)
        by_hand = -logits.log_softmax(-1)[torch.arange(29), ids[1:]].mean()
        hidden = model.base_model(ids[None]).last_hidden_state[0, :-1]
        loss = linear_cross_entropy(hidden, model.get_output_embeddings().weight, ids[1:]).mean()
    torch.testing.assert_close(loss, by_hand, atol=1e-5, rtol=1e-5)
