"""Models from random weights: counts by hand, seeds, and shapes that are refused."""

import pytest
import torch
from pydantic import ValidationError

from tasks.training.shape.architecture import Architecture, all_objectives
from tests.training.models import small_model


@pytest.mark.parametrize("kind", all_objectives())
def test_weights_depend_on_the_seed_alone(kind: str) -> None:
    torch.manual_seed(1)
    one = small_model(kind).state_dict()
    torch.manual_seed(2)
    two = small_model(kind).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_parameters_of_llama_by_hand() -> None:
    """width 32, vocabulary 300 tied, 2 layers: 4 * 32^2 attention, 3 * 32 * 96 MLP, 2 norms each, and the last norm."""
    assert small_model("llama").num_parameters() == 300 * 32 + 2 * (4 * 32**2 + 3 * 32 * 96 + 2 * 32) + 32


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="multiple"):
        Architecture(width=100, num_heads=3)
    with pytest.raises(ValidationError, match="num_key_value_heads"):
        Architecture(width=96, num_heads=4, num_key_value_heads=3)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "qwen3_moe"])
def test_blocks_may_begin_as_the_identity(kind: str) -> None:
    """Then the hidden state of a token does not depend on the tokens before it."""
    model = small_model(kind, zero_outputs=True).eval()
    ids = torch.tensor([[7, 8, 9], [10, 11, 9]])
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state
    assert torch.equal(hidden[0, 2], hidden[1, 2])
    assert not torch.equal(hidden[0, 1], hidden[0, 2])


def test_experts_and_their_router() -> None:
    model = small_model("qwen3_moe", num_experts=4, experts_per_token=2, mlp_width=16)
    assert model.model.layers[0].mlp.experts.down_proj.shape == (4, 32, 16)
    assert model.model.layers[0].mlp.gate.weight.shape == (4, 32)
    with pytest.raises(ValidationError, match="experts_per_token 3 must be at most num_experts"):
        Architecture(kind="qwen3_moe", num_experts=2, experts_per_token=3)
