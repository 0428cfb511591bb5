"""Every adapter on every kind of model: it trains, alone; it keeps packed documents apart; it comes back from disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor

from tasks import models
from tasks.errors import BadParams
from tasks.training import adapters
from tasks.training.adapters import _quantized
from tasks.training.adapters._quantized import quantize
from tasks.training.language import attention
from tasks.training.language.losses import next_token_loss
from tasks.training.language.trunk import head_weight, last_hidden
from tasks.training.loop.training_loop import _checkpoint_activations
from tasks.training.parallel.precision import Weights
from tasks.training.stages import sft
from tests.tokenization.corpus import tokenizer
from tests.training.models import small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own

KINDS = ["llama", "qwen3", "gpt2"]
CHOICES = ["lora", {"name": "lora", "use_dora": True}, {"name": "lora", "use_rslora": True}, "ia3",
           {"name": "prompt_tuning", "num_virtual_tokens": 3},
           {"name": "p_tuning", "num_virtual_tokens": 3, "encoder_width": 16},
           {"name": "prefix_tuning", "num_virtual_tokens": 3}]  # fmt: skip
IDS = torch.randint(6, 300, (2, 12), generator=torch.Generator().manual_seed(0))


def attached(kind: str, choice: Any) -> Any:
    return adapters.attach(small_model(kind), sft.Params(adapter=choice).adapter, seed=0)


def logits(model: Any, ids: Tensor) -> Tensor:
    """As peft and transformers compute them, without those of virtual tokens."""
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found[:, -ids.shape[1] :]


def train(model: Any, precision: torch.dtype = torch.float32, steps: int = 20) -> list[float]:
    weights, losses = Weights(model, precision), []
    optimizer = torch.optim.AdamW(weights.masters, lr=0.03)
    positions, targets = torch.arange(12).expand(2, -1), IDS.roll(-1, 1)
    model.train()
    with attention.packed(model.get_base_model()):
        for _ in range(steps):
            loss, _ = next_token_loss(last_hidden(model, IDS, positions), head_weight(model), targets)
            loss.backward()
            weights.collect_gradients()
            optimizer.step()
            optimizer.zero_grad()
            weights.publish()
            losses.append(loss.item())
    weights.restore()
    model.eval()
    return losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_it_trains_alone_and_comes_back_from_disk(kind: str, choice: Any, tmp_path: Path) -> None:
    model = attached(kind, choice)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses = train(model)
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    models.save(tmp_path / "model", model, tokenizer(), {"stage": "test"})
    loaded, _ = models.load_causal(tmp_path / "model")
    torch.testing.assert_close(logits(loaded, IDS), logits(model, IDS), atol=2e-5, rtol=1e-4)
    assert (logits(loaded, IDS) - logits(small_model(kind), IDS)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_packed_documents_are_as_peft_has_them_alone(kind: str, choice: Any) -> None:
    model = attached(kind, choice)
    train(model, steps=3)
    positions = torch.tensor([[*range(5), *range(7)]]).expand(2, -1)
    with torch.no_grad(), attention.packed(model.get_base_model()):
        together = last_hidden(model, IDS, positions) @ head_weight(model).T
    alone = torch.cat([logits(model, part) for part in IDS.split([5, 7], 1)], 1)
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_bf16_and_generation(kind: str, choice: Any) -> None:
    model = attached(kind, choice)
    losses = train(model, torch.bfloat16)
    assert losses[-1] < losses[0] - 0.01
    assert written(model) == logits(model, IDS[:1, :4])[0, -1].argmax()


def written(model: Any) -> Tensor:
    """The first token that peft's own generate writes behind four."""
    with torch.no_grad():
        words = model.generate(
            input_ids=IDS[:1, :4], attention_mask=torch.ones(1, 4), max_new_tokens=3, do_sample=False
        )
    return words[0, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", [choice for choice in CHOICES if "prefix_tuning" not in str(choice)], ids=str)
def test_gradient_checkpointing_changes_nothing(kind: str, choice: Any) -> None:
    plain, checkpointed = attached(kind, choice), attached(kind, choice)
    _checkpoint_activations(checkpointed, True)
    assert train(checkpointed, steps=4) == pytest.approx(train(plain, steps=4), abs=1e-5)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize(
    ("bits", "choice"),
    [(bits, choice) for bits in (8, 4) for choice in CHOICES if bits == 4 or "use_dora" not in choice],  # see below
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_base_of_few_bits(kind: str, choice: Any, bits: int, tmp_path: Path) -> None:
    """It trains and writes; the adapter comes back exactly onto the same base, and merged as plain fp32 weights."""
    named = {"name": choice} if isinstance(choice, str) else choice
    model = attached(kind, {**named, "base_bits": bits})
    assert sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_floating_point()) > 0
    losses = train(model)
    assert losses[-1] < losses[0] - 0.01
    assert written(model) == logits(model, IDS[:1, :4])[0, -1].argmax()
    models.save(tmp_path / "model", model, tokenizer(), {"stage": "test"})
    base = small_model(kind)
    quantize(base, bits)
    again = PeftModel.from_pretrained(base, tmp_path / "model" / models.ADAPTER).eval()
    assert torch.equal(logits(again, IDS), logits(model, IDS))
    loaded, _ = models.load_causal(tmp_path / "model")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    close = 1e-4 if bits == 4 else 0.15  # LLM.int8 rounds what goes into a map, too
    assert (logits(loaded, IDS) - logits(model, IDS)).abs().max() < close


def test_bits_without_bitsandbytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_quantized.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadParams, match="pip install bitsandbytes"):
        attached("llama", {"name": "lora", "base_bits": 4})


def test_the_cell_that_breaks_is_refused() -> None:
    with pytest.raises(ValidationError, match="prefix_tuning"):
        sft.Params(adapter="prefix_tuning", gradient_checkpointing=True)


def test_dora_on_eight_bits_is_refused() -> None:
    with pytest.raises(ValidationError, match="base_bits 4"):
        sft.Params(adapter={"name": "lora", "use_dora": True, "base_bits": 8})


def test_names_and_dials_that_are_not_there() -> None:
    with pytest.raises(ValidationError, match=r"'lore'; did you mean 'lora'"):
        sft.Params(adapter="lore")
    with pytest.raises(ValidationError, match="rang"):
        sft.Params(adapter={"name": "lora", "rang": 3})
