"""Every adapter on every kind of model: it alone is trained, documents do not affect each other, it can be loaded."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from torch import Tensor

from flows.runtime import params as runtime_params
from tasks import models, peft
from tasks.causal import attention, heads
from tasks.causal.backbone import last_hidden
from tasks.causal.losses import next_token_loss
from tasks.errors import BadParams
from tasks.training import adapters
from tasks.training.loop.training_loop import _set_gradient_checkpointing
from tasks.training.parallel.precision import Weights
from tasks.training.stages import sft
from tests.tokenization.corpus import tokenizer
from tests.training.models import small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # a warning of peft

KINDS = ["llama", "qwen3", "gpt2"]
SECTIONS = ["lora", {"name": "lora", "use_dora": True}, {"name": "lora", "use_rslora": True}, "ia3",
            {"name": "prompt_tuning", "num_virtual_tokens": 3},
            {"name": "p_tuning", "num_virtual_tokens": 3, "encoder_width": 16},
            {"name": "prefix_tuning", "num_virtual_tokens": 3}]  # fmt: skip
IDS = torch.randint(6, 300, (2, 12), generator=torch.Generator().manual_seed(0))


def with_adapter(kind: str, section: Any) -> Any:
    return adapters.attach(small_model(kind), sft.Params(adapter=section).adapter, seed=0)


def logits(model: Any, ids: Tensor) -> Tensor:
    """The logits of peft and transformers, without those of virtual tokens."""
    with torch.no_grad():
        all_logits: Tensor = model(ids).logits
    return all_logits[:, -ids.shape[1] :]


def train(model: Any, precision: torch.dtype = torch.float32, steps: int = 20) -> list[float]:
    weights, losses = Weights(model, precision), []
    optimizer = torch.optim.AdamW(weights.masters, lr=0.03)
    positions, targets = torch.arange(12).expand(2, -1), IDS.roll(-1, 1)
    model.train()
    with attention.packed(model.get_base_model()):
        for _ in range(steps):
            loss, _ = next_token_loss(last_hidden(model, IDS, positions), heads.head(model), targets)
            loss.backward()
            weights.collect_gradients()
            optimizer.step()
            optimizer.zero_grad()
            weights.copy_to_model()
            losses.append(loss.item())
    weights.restore()
    model.eval()
    return losses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_only_the_adapter_is_trained_and_it_can_be_loaded(kind: str, section: Any, tmp_path: Path) -> None:
    model = with_adapter(kind, section)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    losses = train(model)
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    models.save(tmp_path / "model", model, tokenizer(), {"stage": "test"})
    loaded, _ = models.load_causal(tmp_path / "model")
    torch.testing.assert_close(logits(loaded, IDS), logits(model, IDS), atol=2e-5, rtol=1e-4)
    assert (logits(loaded, IDS) - logits(small_model(kind), IDS)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_packed_documents_have_the_logits_that_peft_computes_for_each_alone(kind: str, section: Any) -> None:
    model = with_adapter(kind, section)
    train(model, steps=3)
    positions = torch.tensor([[*range(5), *range(7)]]).expand(2, -1)
    with torch.no_grad(), attention.packed(model.get_base_model()):
        together = heads.logits(model, last_hidden(model, IDS, positions))
    alone = torch.cat([logits(model, part) for part in IDS.split([5, 7], 1)], 1)
    assert (together - alone).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_bf16_and_generation(kind: str, section: Any) -> None:
    model = with_adapter(kind, section)
    losses = train(model, torch.bfloat16)
    assert losses[-1] < losses[0] - 0.01
    assert first_generated_token(model) == logits(model, IDS[:1, :4])[0, -1].argmax()


def first_generated_token(model: Any) -> Tensor:
    """The first token that peft's own `generate` adds to a prompt of four tokens."""
    with torch.no_grad():
        ids = model.generate(
            input_ids=IDS[:1, :4], attention_mask=torch.ones(1, 4), max_new_tokens=3, do_sample=False
        )  # fmt: skip
    token: Tensor = ids[0, 4]
    return token


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("section", [section for section in SECTIONS if "prefix_tuning" not in str(section)], ids=str)
def test_gradient_checkpointing_changes_nothing(kind: str, section: Any) -> None:
    plain, checkpointed = with_adapter(kind, section), with_adapter(kind, section)
    _set_gradient_checkpointing(checkpointed, True)
    assert train(checkpointed, steps=4) == pytest.approx(train(plain, steps=4), rel=1e-5)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize(
    ("bits", "section"),
    [(bits, section) for bits in (8, 4) for section in SECTIONS if bits == 4 or "use_dora" not in section],  # see below
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_base(kind: str, section: Any, bits: peft.Bits, tmp_path: Path) -> None:
    """It trains and generates; the saved adapter fits the same base exactly, and the merged weights are in fp32."""
    named_section = {"name": section} if isinstance(section, str) else section
    model = with_adapter(kind, {**named_section, "base_bits": bits})
    assert sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_floating_point()) > 0
    losses = train(model)
    assert losses[-1] < losses[0] - 0.01
    assert first_generated_token(model) == logits(model, IDS[:1, :4])[0, -1].argmax()
    models.save(tmp_path / "model", model, tokenizer(), {"stage": "test"})
    base = small_model(kind)
    peft.quantize(base, bits)
    reloaded = PeftModel.from_pretrained(base, tmp_path / "model" / models.ADAPTER).eval()
    assert torch.equal(logits(reloaded, IDS), logits(model, IDS))
    loaded, _ = models.load_causal(tmp_path / "model")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    tolerance = 1e-4 if bits == 4 else 0.15  # LLM.int8 rounds the input of a linear map, too
    assert (logits(loaded, IDS) - logits(model, IDS)).abs().max() < tolerance


def test_bits_without_bitsandbytes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    with pytest.raises(BadParams, match="pip install bitsandbytes"):
        with_adapter("llama", {"name": "lora", "base_bits": 4})


def test_prefix_tuning_with_gradient_checkpointing_is_refused() -> None:
    with pytest.raises(ValidationError, match="prefix_tuning"):
        sft.Params(adapter="prefix_tuning", gradient_checkpointing=True)


def test_dora_on_eight_bits_is_refused() -> None:
    with pytest.raises(ValidationError, match="base_bits: 4"):
        sft.Params(adapter={"name": "lora", "use_dora": True, "base_bits": 8})


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValidationError, match=r"'lore'; did you mean 'lora'"):
        sft.Params(adapter="lore")
    with pytest.raises(ValidationError, match=r"adapter lora has no param 'rnk'; did you mean 'rank'\?"):
        sft.Params(adapter={"name": "lora", "rnk": 8})


def test_a_mistake_in_params_yaml_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("sft:\n  adapter: {name: lora, rnk: 8}\n")
    with pytest.raises(
        BadParams, match=r"line 2: sft\.adapter.*'rnk'; did you mean 'rank'\? available: alpha"
    ) as raised:
        runtime_params.load("sft", file)
    assert "\n" not in str(raised.value)
    file.write_text("sft:\n  adapter: {name: lora, rank: 0}\n")
    with pytest.raises(BadParams, match=r"sft\.adapter.*rank.*greater than or equal to 1") as raised:
        runtime_params.load("sft", file)
    assert "\n" not in str(raised.value)
