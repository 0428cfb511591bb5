"""Estimates compared with the models themselves and with published numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flows import estimate as command
from tasks.causal.losses import CHUNK_BYTES
from tasks.files import MANIFEST
from tasks.training import adapters
from tasks.training.estimate import estimate
from tasks.training.estimate.counting import Vocabulary, WeightCounts, count, count_checkpoint, count_shape
from tasks.training.estimate.estimate import MicroBatch
from tasks.training.loop import optimizers
from tasks.training.shape.architecture import OBJECTIVES, Architecture, all_objectives, build
from tasks.training.stages import sft
from tests.training.models import Ids, small_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # a warning of peft

GPT3 = Architecture(kind="gpt2", width=12288, num_layers=96, num_heads=96, max_length=2048)


@pytest.fixture(scope="module")
def gpt3() -> WeightCounts:
    return count_shape(GPT3, 50257)


@pytest.mark.parametrize("kind", all_objectives())
@pytest.mark.parametrize("tied", [True, False])
def test_counts_are_those_of_the_model(kind: str, tied: bool) -> None:
    shape = Architecture(kind=kind, width=32, num_layers=2, num_heads=2, tie_embeddings=tied)
    counts = count_shape(shape, 300)
    assert counts.total == build(shape, Ids(), 0).num_parameters()
    assert counts.head == 300 * 32
    assert counts.parts["attention"] > 0
    assert counts.objective == OBJECTIVES.get(shape.kind, "causal")


def test_parts_of_qwen3_by_hand() -> None:
    """Width 32, 2 layers, heads of 16: attention 4 x 32^2, MLP 3 x 32 x 96, norms 2 x 32 + 2 x 16, and the last one."""
    counts = count_shape(Architecture(kind="qwen3", width=32, num_layers=2, num_heads=2, tie_embeddings=False), 300)
    assert counts.parts == {
        "embedding": 9600, "attention": 2 * 4096, "mlp": 2 * 9216, "norms": 2 * 96 + 32, "head": 9600,
    }  # fmt: skip
    assert counts.matrices == {"encoder": 0, "decoder": 2 * (4096 + 9216)}


def test_a_token_passes_only_some_experts() -> None:
    """4 experts of 3 x 32 x 96, of which 2 count; a router of 4 x 32."""
    shape = Architecture(kind="qwen3_moe", width=32, num_layers=1, num_heads=2, num_experts=4, experts_per_token=2)
    counts = count_shape(shape, 300)
    assert counts.parts["mlp"] == 4 * 9216
    assert counts.parts["router"] == 4 * 32
    assert counts.matrices["decoder"] == 4096 + 2 * 9216 + 128


def test_gpt3_has_175_billion_weights(gpt3: WeightCounts) -> None:
    """12 d^2 + 13 d in each of 96 layers, 50257 + 2048 rows of the embeddings, and the last norm."""
    d = 12288
    assert gpt3.total == 96 * (12 * d**2 + 13 * d) + (50257 + 2048) * d + 2 * d
    assert round(gpt3.total / 1e9) == 175


def test_gpt3_took_3e23_flops(gpt3: WeightCounts) -> None:
    """3.14e23 for 300B tokens (arXiv:2005.14165, table D.1), without the scores of attention, which are below 3 %."""
    attention = 12 * 96 * 12288 * 2048 * 300e9
    assert estimate.flops(gpt3, 300e9, 2048) - attention == pytest.approx(3.14e23, rel=0.003)
    assert attention < 0.03 * 3.14e23


def test_the_published_formula_by_hand(gpt3: WeightCounts) -> None:
    """s b h (34 + 5 a s / h) bytes per layer: 114 s b h for GPT-3 (arXiv:2205.05198, section 4.1 and 5)."""
    assert (
        estimate.published_layer_activations(gpt3, MicroBatch(2, 2048, fused_attention=False)) == 114 * 2 * 2048 * 12288
    )
    assert estimate.published_layer_activations(gpt3, MicroBatch(2, 2048)) == 34 * 2 * 2048 * 12288


def saved_bytes(model: Any, ids: torch.Tensor) -> int:
    """Bytes that autograd saves in a real forward pass, without the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved_tensors: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if (storage := tensor.untyped_storage().data_ptr()) not in weights:
            saved_tensors[storage] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        _ = model(input_ids=ids, labels=ids) if model.config.is_encoder_decoder else model.base_model(ids)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved_tensors.values())


@pytest.mark.parametrize("kind", all_objectives())
@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_activations_are_those_of_the_model(kind: str, dtype: torch.dtype, size: int) -> None:
    """Two more layers save two estimates more, to 15 % (what attention and experts save depends on the kernel)."""
    ids = torch.randint(6, 300, (2, 64), generator=torch.Generator().manual_seed(0))
    two, four = (small_model(kind, width=64, num_layers=n, num_heads=2).train().to(dtype) for n in (2, 4))
    measured = (saved_bytes(four, ids) - saved_bytes(two, ids)) / (4 if kind == "t5" else 2)
    assert estimate.layer_activations(count(four), MicroBatch(2, 64), size) == pytest.approx(measured, rel=0.15)


def test_checkpointing_saves_inputs_and_one_block(gpt3: WeightCounts) -> None:
    tokens, batch = 2 * 2048, MicroBatch(2, 2048, checkpointing=True)
    logits = min(CHUNK_BYTES["cuda"], tokens * 50257 * 2)
    saved = estimate.activations(gpt3, batch, 2)
    assert saved == logits + tokens * 12288 * 2 * 96 + estimate.layer_activations(gpt3, batch, 2)


def test_memory_by_hand() -> None:
    """fp32 with AdamW: 4 + 4 + 8 bytes per weight; bf16 adds a working copy and its gradients. ZeRO divides."""
    counts = count_shape(Architecture(kind="gpt2", width=32, num_layers=1, num_heads=2), 300)
    n, batch = counts.total, MicroBatch(1, 8)
    plain = estimate.full_memory(counts, batch, "fp32", "adamw", "ddp", 4)
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * n, 4 * n, 8 * n)
    zero1 = estimate.full_memory(counts, batch, "bf16", "adamw", "zero1", 4)
    assert (zero1.weights, zero1.gradients, zero1.optimizer) == (6 * n, 6 * n, 2 * n)
    fsdp = estimate.full_memory(counts, batch, "bf16", "adamw", "fsdp", 4)
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == (1.5 * n, 1.5 * n, 2 * n)
    muon = estimate.full_memory(counts, batch, "fp32", "muon", "ddp", 1)
    assert muon.optimizer == 8 * n - 4 * 12 * 32**2


@pytest.mark.parametrize("kind", all_objectives())
def test_optimizer_states_have_the_estimated_size(kind: str) -> None:
    model = small_model(kind)
    counts = count(model)
    for name in ("adamw", "muon"):
        parts = optimizers.build(name, list(model.named_parameters()), weight_decay=0.1, betas=(0.9, 0.95))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for optimizer in parts:
            optimizer.step()
        states = [value for part in parts for state in part.state.values() for value in state.values()]
        state_bytes = sum(value.nbytes for value in states if value.ndim)
        assert estimate.full_memory(counts, MicroBatch(1, 8), "fp32", name, "ddp", 1).optimizer == state_bytes


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_lora_has_as_many_weights_as_in_peft(kind: str) -> None:
    model = small_model(kind)
    counts = count(model)
    adapter = sft.Params.model_validate({"adapter": {"name": "lora", "rank": 4}}).adapter
    assert adapters.num_trainable_parameters(adapters.attach(model, adapter, 0)) == counts.lora(4)
    memory = estimate.lora_memory(counts, MicroBatch(1, 8), "nf4", 4)
    assert memory.gradients == 6 * counts.lora(4)
    assert memory.weights < estimate.lora_memory(counts, MicroBatch(1, 8), "int8", 4).weights


def test_a_checkpoint_is_counted_by_its_config(tmp_path: Path) -> None:
    small_model("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert count_checkpoint(str(tmp_path)) == count(small_model("llama"))
    assert len(Vocabulary(7)) == 7


def test_json_contains_the_numbers_of_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "gpt2", "--hardware", "h100", "--price-per-hour", "2"]
    assert command.main(arguments) == 0
    text = capsys.readouterr().out
    assert command.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert f"{numbers['weights']['total']:,}  = 124M" in text
    assert f"time        {numbers['hours'] * 60:.1f} minutes" in text
    assert f"price       {numbers['price']:,.2f}" in text
    memory = numbers["memory_bytes"]["bf16, adamw"]
    assert memory["total"] == sum(value for use, value in memory.items() if use != "total")
    assert f"{memory['total'] / 2**30:10.2f}  fits" in text


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "gpt3", "--hardware", "h100", "--gpus", "8", "--price-per-hour", "2"]
    assert command.main(arguments) == 0
    output = capsys.readouterr().out
    assert "174,604,259,328  = 175B" in output
    assert "DOES NOT FIT" in output
    assert "price" in output
    assert command.main(["--size", "nano", "--vocab-size", "4096", "--gpu-memory", "1"]) == 0
    assert "It fits" in capsys.readouterr().out


def test_without_arguments_it_reads_params_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model of params.yaml with the vocabulary in the params of tokenization, or in the manifest of data/tokens."""
    assert command.main(["--data", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "qwen3: 4 layers, width 128, 4 heads, vocabulary 4,096 (causal)" in output
    assert "give --hardware" in output
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / MANIFEST).write_text('{"vocab_size": 500}')
    assert command.main(["--data", str(tmp_path)]) == 0
    assert "vocabulary 500" in capsys.readouterr().out


def test_a_base_may_be_the_name_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_model("llama").save_pretrained(tmp_path / "data/models/first")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("pretrain: {base: first}\n")
    assert command.main(["--vocab-size", "300", "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["weights"]["total"] == count(small_model("llama")).total
    assert numbers["model"] == "data/models/first"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "huge"], "expected 'nano'"),
        (["--size", "nano", "--vocab-size", "9", "--hardware", "abacus"], "h100"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_devices_default_to_the_processes_in_the_params() -> None:
    from tasks.training.estimate import forecast
    from tasks.training.stages import pretrain

    params = pretrain.Params.model_validate({"launch": {"processes": 4, "strategy": "fsdp"}})
    output = "\n".join(forecast.lines(params, 300, forecast.Options(flops=1e12)))
    assert "fsdp on 4" in output
    assert "on 4 x device" in output
    assert "zero1 on 2" in "\n".join(forecast.lines(params, 300, forecast.Options(gpus=2, strategy="zero1")))
