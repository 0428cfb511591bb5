"""The number formats of matrix products: only those that the hardware computes natively are used."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tasks.training.loop import muon
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tasks.training.loop.work import Work
from tasks.training.parallel import precision
from tests.training.models import small_model

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm")


class MatrixProducts(TorchDispatchMode):
    """Collects the formats of all matrix products within its block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in PRODUCTS:
            self.dtypes |= {argument.dtype for argument in args if isinstance(argument, Tensor)}
        return function(*args, **(kwargs or {}))


@dataclass
class Batch:
    ids: Tensor
    weight: float = 1.0


class LanguageWork(Work):
    """Next-token loss of a small model on fixed ids."""

    def __init__(self) -> None:
        self.model = small_model()

    def batches(self, step: int) -> Sequence[Batch]:
        return [Batch(torch.arange(64).view(2, 32))]

    def loss(self, batch: Batch) -> tuple[Tensor, Mapping[str, float]]:
        return self.model(input_ids=batch.ids, labels=batch.ids).loss.float(), {}


@pytest.mark.parametrize("native", [True, False])
def test_without_native_bf16_no_product_is_in_bf16(
    native: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (precision, muon):
        monkeypatch.setattr(module, "has_fast_bf16", lambda device: native)
    with MatrixProducts() as products:
        run(LanguageWork(), LoopParams(steps=2, optimizer="muon", warmup_steps=0), tmp_path, "pretrain")
    assert products.dtypes == {torch.bfloat16 if native else torch.float32}


def test_emulated_bf16_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: False)
    monkeypatch.setattr(precision, "_bf16_speed_up", lambda: 0.08)
    assert precision.choose("bf16", torch.device("cpu")) == torch.bfloat16
    assert "12.5 times slower in bf16 than in fp32" in capsys.readouterr().err
    assert precision.choose("auto", torch.device("cpu")) == torch.float32
    assert capsys.readouterr().err == ""


def test_orthogonalized_in_either_format_the_values_are_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    for native in (True, False):
        monkeypatch.setattr(muon, "has_fast_bf16", lambda device, native=native: native)
        values = torch.linalg.svdvals(muon.orthogonalize(matrices).float())
        assert values.min() > 0.6
        assert values.max() < 1.3
