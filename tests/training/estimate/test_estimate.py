"""Estimates against the models themselves and against published numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from flows import estimate as command
from tasks.files import MANIFEST
from tasks.training import adapters
from tasks.training.estimate import estimate
from tasks.training.estimate.counting import Counts, Vocabulary, count, count_checkpoint, count_shape
from tasks.training.estimate.estimate import Batch
from tasks.training.loop import optimizers
from tasks.training.shape.architecture import OBJECTIVES, Architecture, all_objectives, build
from tasks.training.stages import sft
from tests.training.models import Ids, small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own

GPT3 = Architecture(kind="gpt2", width=12288, num_layers=96, num_heads=96, max_length=2048)


@pytest.fixture(scope="module")
def gpt3() -> Counts:
    return count_shape(GPT3, 50257)


@pytest.mark.parametrize("kind", all_objectives())
@pytest.mark.parametrize("tied", [True, False])
def test_counts_are_those_of_the_model(kind: str, tied: bool) -> None:
    shape = Architecture(kind=kind, width=32, num_layers=2, num_heads=2, tie_embeddings=tied)
    counted = count_shape(shape, 300)
    assert counted.total == build(shape, Ids(), 0).num_parameters()
    assert counted.head == 300 * 32
    assert counted.parts["attention"] > 0
    assert counted.objective == OBJECTIVES.get(shape.kind, "causal")


def test_parts_of_qwen3_by_hand() -> None:
    """Width 32, 2 layers, heads of 16: attention 4 x 32^2, MLP 3 x 32 x 96, norms 2 x 32 + 2 x 16, and the last one."""
    counted = count_shape(Architecture(kind="qwen3", width=32, num_layers=2, num_heads=2, tie_embeddings=False), 300)
    assert counted.parts == {
        "embedding": 9600, "attention": 2 * 4096, "mlp": 2 * 9216, "norms": 2 * 96 + 32, "head": 9600,
    }  # fmt: skip
    assert counted.matrices == {"encoder": 0, "decoder": 2 * (4096 + 9216)}


def test_a_token_goes_through_some_experts_alone() -> None:
    """4 experts of 3 x 32 x 96, of which 2 count; a router of 4 x 32."""
    shape = Architecture(kind="qwen3_moe", width=32, num_layers=1, num_heads=2, num_experts=4, experts_per_token=2)
    counted = count_shape(shape, 300)
    assert counted.parts["mlp"] == 4 * 9216
    assert counted.parts["router"] == 4 * 32
    assert counted.matrices["decoder"] == 4096 + 2 * 9216 + 128


def test_gpt3_has_175_billion_weights(gpt3: Counts) -> None:
    """12 d^2 + 13 d in each of 96 layers, 50257 + 2048 rows of the tables, the last norm."""
    d = 12288
    assert gpt3.total == 96 * (12 * d**2 + 13 * d) + (50257 + 2048) * d + 2 * d
    assert round(gpt3.total / 1e9) == 175


def test_gpt3_took_3e23_flops(gpt3: Counts) -> None:
    """3.14e23 for 300B tokens (arXiv:2005.14165, table D.1), which leaves attention's scores out: below 3 % of it."""
    attention = 12 * 96 * 12288 * 2048 * 300e9
    assert estimate.flops(gpt3, 300e9, 2048) - attention == pytest.approx(3.14e23, rel=0.003)
    assert attention < 0.03 * 3.14e23


def test_the_published_formula_by_hand(gpt3: Counts) -> None:
    """s b h (34 + 5 a s / h) bytes per layer: 114 s b h for GPT-3 (arXiv:2205.05198, section 4.1 and 5)."""
    assert estimate.published(gpt3, Batch(2, 2048, fused_attention=False)) == 114 * 2 * 2048 * 12288
    assert estimate.published(gpt3, Batch(2, 2048)) == 34 * 2 * 2048 * 12288


def kept_bytes(model: Any, ids: torch.Tensor) -> int:
    """What autograd keeps of a real forward pass, weights aside."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (storage := tensor.untyped_storage().data_ptr()) not in known:
            kept[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _ = model(input_ids=ids, labels=ids) if model.config.is_encoder_decoder else model.base_model(ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("kind", all_objectives())
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_activations_are_those_of_the_model(kind: str, dtype: torch.dtype, size: int) -> None:
    """Two layers more keep two estimates more, to 15 % (what attention and experts keep depends on the kernel)."""
    ids = torch.randint(6, 300, (2, 64), generator=torch.Generator().manual_seed(0))
    two, four = (small_model(kind, width=64, num_layers=n, num_heads=2).train().to(dtype) for n in (2, 4))
    measured = (kept_bytes(four, ids) - kept_bytes(two, ids)) / (4 if kind == "t5" else 2)
    assert estimate.layer(count(four), Batch(2, 64), size) == pytest.approx(measured, rel=0.15)


def test_checkpointing_keeps_inputs_and_one_block(gpt3: Counts) -> None:
    tokens, batch = 2 * 2048, Batch(2, 2048, checkpointing=True)
    logits = min(estimate.CHUNK_BYTES["cuda"], tokens * 50257 * 2)
    kept = estimate.activations(gpt3, batch, 2)
    assert kept == logits + tokens * 12288 * 2 * 96 + estimate.layer(gpt3, batch, 2)


def test_memory_by_hand() -> None:
    """fp32 with AdamW: 4 + 4 + 8 bytes a weight; bf16: a working copy and its gradients on top. ZeRO divides."""
    counted = count_shape(Architecture(kind="gpt2", width=32, num_layers=1, num_heads=2), 300)
    n, batch = counted.total, Batch(1, 8)
    plain = estimate.full(counted, batch, "fp32", "adamw", "ddp", 4)
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * n, 4 * n, 8 * n)
    low = estimate.full(counted, batch, "bf16", "adamw", "zero1", 4)
    assert (low.weights, low.gradients, low.optimizer) == (6 * n, 6 * n, 2 * n)
    shared = estimate.full(counted, batch, "bf16", "adamw", "fsdp", 4)
    assert (shared.weights, shared.gradients, shared.optimizer) == (1.5 * n, 1.5 * n, 2 * n)
    muon = estimate.full(counted, batch, "fp32", "muon", "ddp", 1)
    assert muon.optimizer == 8 * n - 4 * 12 * 32**2


@pytest.mark.parametrize("kind", all_objectives())
def test_the_optimizers_really_keep_so_much(kind: str) -> None:
    model = small_model(kind)
    counted = count(model)
    for name in ("adamw", "muon"):
        made = optimizers.build(name, list(model.named_parameters()), weight_decay=0.1, betas=(0.9, 0.95))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in made:
            optimizer.step()
        states = [value for one in made for state in one.state.values() for value in state.values()]
        kept = sum(value.nbytes for value in states if value.ndim)
        assert estimate.full(counted, Batch(1, 8), "fp32", name, "ddp", 1).optimizer == kept


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_lora_is_counted_as_peft_makes_it(kind: str) -> None:
    model = small_model(kind)
    counted = count(model)
    choice = sft.Params.model_validate({"adapter": {"name": "lora", "rank": 4}}).adapter
    assert adapters.num_trainable_parameters(adapters.attach(model, choice, 0)) == counted.lora(4)
    memory = estimate.lora(counted, Batch(1, 8), "nf4", 4)
    assert memory.gradients == 6 * counted.lora(4)
    assert memory.weights < estimate.lora(counted, Batch(1, 8), "int8", 4).weights


def test_a_checkpoint_is_counted_by_its_config(tmp_path: Path) -> None:
    small_model("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert count_checkpoint(str(tmp_path)) == count(small_model("llama"))
    assert len(Vocabulary(7)) == 7


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--size", "gpt3", "--hardware", "h100", "--gpus", "8", "--price-per-hour", "2"]
    assert command.main(given) == 0
    said = capsys.readouterr().out
    assert "174,604,259,328  = 175B" in said
    assert "DOES NOT FIT" in said
    assert "money" in said
    assert command.main(["--size", "nano", "--vocab-size", "4096", "--gpu-memory", "1"]) == 0
    assert "It fits" in capsys.readouterr().out


def test_without_a_word_it_reads_params_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The default model with the vocabulary that tokenization will make, or has made: the manifest says."""
    assert command.main(["--data", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "qwen3: 4 layers, width 128, 2 heads, vocabulary 4,096 (causal)" in said
    assert "give --hardware" in said
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / MANIFEST).write_text('{"vocab_size": 500}')
    assert command.main(["--data", str(tmp_path)]) == 0
    assert "vocabulary 500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--size", "huge"], "expected 'nano'"),
        (["--size", "nano", "--vocab-size", "9", "--hardware", "abacus"], "h100"),
    ],
)
def test_mistakes_are_one_line(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_devices_are_those_that_params_launch() -> None:
    from tasks.training.estimate import forecast
    from tasks.training.stages import pretrain

    params = pretrain.Params.model_validate({"launch": {"processes": 4, "strategy": "fsdp"}})
    said = "\n".join(forecast.lines(params, 300, forecast.Terms(flops=1e12)))
    assert "fsdp on 4" in said
    assert "on 4 x device" in said
    assert "zero1 on 2" in "\n".join(forecast.lines(params, 300, forecast.Terms(gpus=2, strategy="zero1")))
