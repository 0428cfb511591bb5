"""Each optimizer learns, resumes exactly from a checkpoint, and updates a weight as its paper says."""

import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from tasks.errors import BadParams
from tasks.training.loop import optimizers
from tasks.training.loop.muon import Muon
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tasks.training.shape.architecture import all_objectives
from tests.training.models import small_model
from tests.training.small_work import LinearWork, same, weights

NAMES = get_args(optimizers.Name)
RATES = {"adamw": 0.02, "muon": 0.05, "adafactor": 0.05, "lion": 0.005, "adamw_8bit": 0.02}


def params(name: str, steps: int) -> LoopParams:
    return LoopParams.model_validate(
        {"optimizer": name, "steps": steps, "learning_rate": RATES[name], "warmup_steps": 2, "num_threads": 1,
         "precision": "fp32", "device": "cpu", "log_every": 1, "checkpoint_every": 2}
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str, tmp_path: Path) -> None:
    rows = run(LinearWork(), params(name, 200), tmp_path, "test")
    assert rows[-1]["loss"] < rows[0]["loss"] / 5


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_run(name: str, tmp_path: Path) -> None:
    class Killed(LinearWork):
        def stop(self) -> str | None:
            super().stop()
            if len(self.losses) == 7:
                raise MemoryError
            return None

    whole, resumed = LinearWork(), LinearWork()
    run(whole, params(name, 12), tmp_path / "whole", "test")
    with pytest.raises(MemoryError):
        run(Killed(), params(name, 12), tmp_path / "killed", "test")
    run(resumed, params(name, 12), tmp_path / "killed", "test")
    assert same(weights(whole), weights(resumed))
    assert len(resumed.losses) == 12


def test_large_states_in_8_bits_come_back_too() -> None:
    """bitsandbytes stores the states of tensors of at least 4096 numbers in 8 bits."""
    states = []
    for restart in (False, True):
        weight = nn.Parameter(torch.linspace(-1, 1, 8192).view(64, 128))
        optimizer = build("adamw_8bit", weight)
        for step in range(4):
            if restart and step == 2:
                saved = optimizer.state_dict()
                optimizer = build("adamw_8bit", weight)
                optimizer.load_state_dict(saved)
            weight.grad = weight.detach() * (step + 1)
            optimizer.param_groups[0]["lr"] = 0.01
            optimizer.step()
        assert any(
            value.dtype == torch.uint8 for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)
        )
        states.append(weight.detach().clone())
    assert torch.equal(*states)


def build(name: optimizers.Name, weight: nn.Parameter, decay: float = 0.0) -> torch.optim.Optimizer:
    return optimizers.build(name, [("block.weight", weight)], weight_decay=decay, betas=(0.9, 0.99))[0]


def test_lion_goes_by_the_sign() -> None:
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    weight.grad = torch.tensor([[0.3, -5.0]])
    optimizer = build("lion", weight)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[0.9, -1.9]]))


def test_adafactor_keeps_rows_and_columns() -> None:
    weight = nn.Parameter(torch.ones(6, 4))
    weight.grad = torch.ones(6, 4)
    optimizer = build("adafactor", weight)
    optimizer.step()
    num_state_values = sum(value.numel() for value in optimizer.state[weight].values() if value.ndim)
    assert num_state_values == 6 + 4


@pytest.mark.parametrize("name", NAMES)
def test_norms_do_not_decay(name: optimizers.Name) -> None:
    named = [("a.weight", nn.Parameter(torch.ones(4, 4))), ("norm.weight", nn.Parameter(torch.ones(4)))]
    built = optimizers.build(name, named, weight_decay=0.1, betas=(0.9, 0.99))
    decay = {
        id(p): group["weight_decay"] for optimizer in built for group in optimizer.param_groups for p in group["params"]
    }
    assert [decay[id(p)] for _, p in named] == [0.1, 0.0]


@pytest.mark.parametrize("name", ["lion", "adamw_8bit"])
def test_a_missing_bitsandbytes_is_reported(name: optimizers.Name, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(BadParams, match="needs bitsandbytes: pip install"):
        build(name, nn.Parameter(torch.ones(2, 2)))


@pytest.mark.parametrize("kind", all_objectives())
@pytest.mark.parametrize("tied", [True, False])
def test_muon_does_not_update_embeddings_and_heads(kind: str, tied: bool) -> None:
    """AdamW updates every embedding and head, in every kind of model."""
    model = small_model(kind, tie_embeddings=tied)
    embeddings_and_head = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    embeddings_and_head.add(id(model.get_output_embeddings().weight))
    built = optimizers.build("muon", list(model.named_parameters()), weight_decay=0.1, betas=(0.9, 0.95))
    assert isinstance(built[1], Muon)
    by_muon = {id(p) for group in built[1].param_groups for p in group["params"]}
    assert len(by_muon) >= 2 * 4
    assert not by_muon & embeddings_and_head
