"""torch.compile, FP8 and reduced precision: equal results within their precision, a model that is unchanged afterwards,
and an error where the hardware does not support them.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.causal import attention, backbone
from tasks.errors import BadParams
from tasks.training.language import compilation, float8
from tasks.training.language.acceleration import AcceleratedParams, accelerated
from tasks.training.parallel.precision import Weights, deterministic, tf32
from tests.training.models import small_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IDS = torch.randint(6, 300, (2, 16), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.arange(16).expand(2, -1)


def loss_and_gradients(model: Any) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    with attention.packed(model):
        loss = backbone.last_hidden(model, IDS, POSITIONS).float().square().mean()
        loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_compiled_blocks_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the compiler's tracing and differentiation; its last step, to machine code, would take a minute."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    monkeypatch.setattr(compilation, "CACHE", tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    model = small_model(kind).train()
    names = list(model.state_dict())
    loss, gradients = loss_and_gradients(model)
    with compilation.compiled(model, "on", 10, CPU):
        assert all(block._compiled_call_impl is not None for block in compilation.blocks_of(model))
        compiled_loss, compiled_gradients = loss_and_gradients(model)
    assert len(compilation.blocks_of(model)) == 2
    assert all(block._compiled_call_impl is None for block in compilation.blocks_of(model))
    assert list(model.state_dict()) == names
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    for one, other in zip(gradients, compiled_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_the_shapes_of_an_earlier_stage_are_forgotten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Otherwise a second stage would run code for dynamic shapes, and another one in a process of its own."""
    has_dynamic_shapes = list[bool]()

    def record(graph: Any, inputs: list[Any]) -> Any:
        has_dynamic_shapes.append(any(isinstance(one, torch.SymInt) for one in inputs))
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", record)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    model = small_model("qwen3").train()
    for length in (16, 12):
        with compilation.compiled(model, "on", 10, CPU), attention.packed(model):
            backbone.last_hidden(model, IDS[:, :length], POSITIONS[:, :length])
    assert has_dynamic_shapes
    assert not any(has_dynamic_shapes)


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(BadParams, match="compile: on needs a C"), compilation.compiled(nn.Linear(1, 1), "on", 10, CPU):
        pass
    assert not compilation.should_compile("auto", 10**6, CPU)


def test_short_runs_are_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    steps = (299, 300, 499, 500)
    assert [compilation.should_compile("auto", n, CPU) for n in steps] == [False, True, True, True]
    assert [compilation.should_compile("auto", n, CUDA) for n in steps] == [False, False, False, True]
    assert not compilation.should_compile("off", 10**6, CPU)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_auto_runs_what_cannot_be_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model may contain what the compiler does not support; with `on`, its error ends the run."""

    def failing(graph: object, inputs: object) -> None:
        raise NotImplementedError("an operator of this model")

    monkeypatch.setattr(compilation, "BACKEND", failing)
    monkeypatch.setattr(compilation, "CACHE", tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: "/bin/true")
    model = small_model("qwen3").train()
    loss, _ = loss_and_gradients(model)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="an operator of this model"), compilation.compiled(model, "on", 1500, CPU):
        loss_and_gradients(model)
    torch._dynamo.reset()
    with compilation.compiled(model, "auto", 1500, CPU):
        assert loss_and_gradients(model)[0] == pytest.approx(loss, rel=1e-6)
    errors = capsys.readouterr().err
    assert errors.count("compile: torch cannot compile a part of this model") == 1
    assert "Traceback" not in errors
    torch._dynamo.reset()


def test_products_in_8_bits_by_hand() -> None:
    """Numbers that e4m3 represents exactly, the largest of which is its maximum: the scale is 1, the error is 0."""
    rows = torch.tensor([[448.0, 1.0], [2.0, -0.5]]).repeat(8, 8)
    weight = torch.tensor([[448.0, 3.0], [-1.5, 7.0]]).repeat(8, 8)
    product = float8._Float8Matmul.apply(rows, weight)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(product, rows @ weight.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_in_8_bits_are_near_and_so_are_gradients(dtype: torch.dtype) -> None:
    """The rounding error is at most 6 % in e4m3 and 12 % in e5m2; the root mean square is about half of that."""
    torch.manual_seed(0)
    plain = nn.Linear(64, 48, bias=True).to(dtype)
    float8_linear = float8.Float8Linear(64, 48, bias=True).to(dtype)
    float8_linear.load_state_dict(plain.state_dict())
    for number in (32, 7):  # 7 is no multiple of 16
        results = []
        for layer in (plain, float8_linear):
            x = torch.randn(number, 64, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
            out = layer(x)
            layer.zero_grad()
            out.float().square().sum().backward()
            results.append((out, x.grad, layer.weight.grad, layer.bias.grad))
        for one, other in zip(*results, strict=True):
            assert float((one - other).detach().float().norm() / one.detach().float().norm()) < 0.07
            assert one.dtype == other.dtype


def test_a_model_learns_in_8_bits_and_is_plain_afterwards() -> None:
    model = small_model("qwen3").train()
    kinds = [type(module) for module in model.modules()]
    plain, _ = loss_and_gradients(model)
    with float8.converted_to_float8(model):
        assert sum(isinstance(module, float8.Float8Linear) for module in model.modules()) == 2 * 7
        assert type(model.get_output_embeddings()) is nn.Linear
        float8_loss, gradients = loss_and_gradients(model)
    assert float8_loss == pytest.approx(plain, rel=0.05)
    assert float8_loss != plain
    assert len(gradients) == sum(1 for p in model.base_model.parameters())
    assert [type(module) for module in model.modules()] == kinds


def test_unsupported_devices_and_models_are_refused() -> None:
    if not torch.cuda.is_available():
        with (
            pytest.raises(BadParams, match=r"fp8 needs a GPU.*fp8: false"),
            accelerated(small_model(), AcceleratedParams(fp8=True)),
        ):
            pass
    with pytest.raises(BadParams, match="no linear maps"), float8.converted_to_float8(small_model("gpt2")):
        pass


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(BadParams, match=r"8\.9"), float8.float8_training(small_model(), True, CUDA):
        pass
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    model = small_model()
    with float8.float8_training(model, True, CUDA):
        assert any(isinstance(module, float8.Float8Linear) for module in model.modules())


def test_tf32_is_for_gpus_and_for_the_run_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with tf32(CUDA):
        assert torch.get_float32_matmul_precision() == "high"
    with tf32(CPU):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before


def test_exact_kernels_are_for_gpus_and_for_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for device, enabled in ((CPU, True), (CUDA, False)):
        with deterministic(device, enabled):
            assert not torch.are_deterministic_algorithms_enabled()
            assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with deterministic(CUDA, True):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_frozen_weights_come_back_in_fp32() -> None:
    model = nn.Linear(4, 4)
    model.weight.requires_grad_(False)
    before = model.weight.detach().clone()
    weights = Weights(model, torch.bfloat16)
    assert model.weight.dtype == torch.bfloat16
    weights.restore()
    assert torch.equal(model.weight, before)


def test_compiled_code_is_cached_in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    monkeypatch.setenv(compilation.CACHE_VARIABLE, default_cache_dir())
    assert compilation.cache_folder() == compilation.CACHE.absolute()
    monkeypatch.setenv(compilation.CACHE_VARIABLE, "/elsewhere")
    assert compilation.cache_folder() == Path("/elsewhere")
