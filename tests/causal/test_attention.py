"""Documents packed into a row must not attend to each other: their outputs equal those of each document alone."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import MistralConfig, MistralForCausalLM

from tasks.causal import attention, backbone, masks
from tests.training.models import small_model

LENGTHS = [5, 17, 300, 3, 40]


def packed_ids() -> tuple[Tensor, Tensor]:
    ids = torch.randint(6, 300, (2, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    return ids, torch.cat([torch.arange(n) for n in LENGTHS]).expand(2, -1)


def alone(model: Any, ids: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.cat([model.base_model(part, use_cache=False).last_hidden_state for part in ids.split(lengths, 1)], 1)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("block", [64, 256])
def test_a_document_in_a_pack_is_as_it_is_alone(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", block)
    model = small_model(kind)
    ids, positions = packed_ids()
    with torch.no_grad():
        with attention.packed(model):
            together = backbone.last_hidden(model, ids, positions)
        difference = (together - alone(model, ids, LENGTHS)).abs().max()
    assert difference < 1e-5
    assert model.config._attn_implementation == "sdpa"


def flash_by_hand(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, _: Any, *lengths: int, **settings: Any
) -> Tensor:
    """torch's varlen_attn, computed document by document: [tokens, heads, head_dim]."""
    num_earlier, num_later = settings.pop("window_size")
    assert num_later == 0
    assert starts.dtype == torch.int32
    assert max(starts.diff()) <= min(lengths)
    parts = [[x[a:b].transpose(0, 1) for x in (query, key, value)] for a, b in pairwise(starts.tolist())]
    masks = [torch.ones(n, n, dtype=torch.bool).tril() for n in starts.diff().tolist()]
    masks = [mask.triu(-num_earlier) if num_earlier >= 0 else mask for mask in masks]
    outputs = [sdpa(q, k, v, mask, **settings) for (q, k, v), mask in zip(parts, masks, strict=True)]
    return torch.cat([output.transpose(0, 1) for output in outputs])


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a GPU, with a plain function in place of the kernel."""
    monkeypatch.setattr(masks, "has_flash_attention", lambda device, dtype: True)
    monkeypatch.setattr(attention, "varlen_attn", flash_by_hand)


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "qwen3_moe"])
def test_flash_attention_receives_cu_seqlens_instead_of_a_mask(kind: str) -> None:
    model = small_model(kind, num_heads=4, num_key_value_heads=2) if kind != "gpt2" else small_model(kind)
    ids, positions = packed_ids()
    with attention.packed(model):
        together = backbone.last_hidden(model, ids, positions)
    assert (together - alone(model, ids, LENGTHS)).abs().max() < 1e-5
    together[:, 5:].sum().backward()
    assert model.get_input_embeddings().weight.grad.isfinite().all()


@pytest.mark.usefixtures("flash")
def test_a_row_may_begin_in_the_middle_of_a_document() -> None:
    positions = torch.tensor([[3, 4, 0, 1], [0, 1, 2, 0]])
    assert masks.cu_seqlens(positions).flatten().tolist() == [0, 2, 4, 7, 8]


@pytest.mark.usefixtures("flash")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_heads_too_wide_for_flash_attention_use_the_mask(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MAX_FLASH_HEAD_DIM", 8)
    monkeypatch.setattr(attention, "varlen_attn", None)
    model = small_model(kind)
    ids, positions = packed_ids()
    with torch.no_grad(), attention.packed(model):
        together = backbone.last_hidden(model, ids, positions)
    assert (together - alone(model, ids, LENGTHS)).abs().max() < 1e-5


def test_dropout_does_not_fit_flash_attention() -> None:
    module, query = torch.nn.Linear(1, 1).train(), torch.zeros(1, 1, 1, 64)
    assert attention._fits_flash_attention(module, query, {"dropout": 0.0})
    assert not attention._fits_flash_attention(module, query, {"dropout": 0.1})
    assert attention._fits_flash_attention(module.eval(), query, {"dropout": 0.1})


def windowed_model() -> Any:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MistralConfig(vocab_size=300, num_key_value_heads=1, sliding_window=8, **shape)
    torch.manual_seed(0)
    return MistralForCausalLM(config).eval()


def test_a_sliding_window_is_respected(request: pytest.FixtureRequest) -> None:
    model = windowed_model()
    ids, positions = packed_ids()
    ids = ids % 300
    model.set_attn_implementation("eager")  # here transformers itself adds the window to its mask
    with torch.no_grad():
        expected = alone(model, ids, LENGTHS)
        for fixture in (None, "flash"):
            if fixture:
                request.getfixturevalue(fixture)
            with attention.packed(model):
                together = backbone.last_hidden(model, ids, positions)
            assert (together - expected).abs().max() < 1e-5
        model.config.sliding_window = None
        wide = type(model)(model.config).eval()
        wide.load_state_dict(model.state_dict())
        assert (alone(wide, ids, LENGTHS) - expected).abs().max() > 1e-3  # the window matters here


def test_gradients_do_not_leak_either() -> None:
    """The loss of the second document has no gradient for embeddings of tokens that only the first one contains."""
    model = small_model("llama")
    ids = torch.tensor([[10, 11, 12, 20, 21, 22]])
    with attention.packed(model):
        hidden = backbone.last_hidden(model, ids, torch.tensor([[0, 1, 2, 0, 1, 2]]))
    hidden[:, 3:].sum().backward()
    gradients = model.get_input_embeddings().weight.grad.abs().sum(1)
    assert gradients[10:13].eq(0).all()
    assert gradients[20:23].gt(0).all()


def test_grouped_query_heads() -> None:
    model = small_model("llama", num_heads=4, num_key_value_heads=2)
    ids, positions = packed_ids()
    with torch.no_grad(), attention.packed(model):
        together = backbone.last_hidden(model, ids, positions)
    assert (together - alone(model, ids, LENGTHS)).abs().max() < 1e-5


def test_the_mask_by_hand() -> None:
    """Two documents of two tokens: no attention to later tokens or to the other document."""
    visible = masks.Layout(torch.tensor([[0, 1, 0, 1]])).visible[0]
    assert visible.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_generation_works_with_packed_attention() -> None:
    model = small_model("llama")
    ids = torch.tensor([[7, 8, 9]])
    plain = model.generate(ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids))
    with attention.packed(model):
        packed = model.generate(ids, max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(ids))
    assert torch.equal(plain, packed)
