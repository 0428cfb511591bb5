"""The load-balancing loss of experts: by hand, as in transformers, and only in training."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tasks.causal import backbone
from tasks.training.language.next_token import NextToken
from tasks.training.language.rows import PackedBatch
from tasks.training.loop.params import LoopParams
from tasks.training.loop.training_loop import run
from tests.tokenization.small_data import write_curated
from tests.tokenization.test_tasks import tokenize
from tests.training.language.test_objectives import packed_rows
from tests.training.models import small_model
from tests.training.stages.test_stages import SMALL, run_pretrain, run_sft

IDS = torch.randint(6, 300, (2, 12), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.arange(12).expand(2, -1)


def test_the_loss_is_that_of_transformers() -> None:
    model = small_model("qwen3_moe", num_experts=4, load_balancing_coef=0.5).train()
    expected = model(IDS, labels=IDS, output_router_logits=True).loss
    targets = torch.cat((IDS[:, 1:], torch.full((2, 1), -100)), 1)
    work = NextToken(model, packed_rows([9]), None, None)
    loss, metrics = work.loss(PackedBatch(IDS, POSITIONS, targets, 22.0))
    torch.testing.assert_close(loss, expected)
    assert metrics["cross_entropy"] < loss
    model.eval()
    assert "cross_entropy" not in work.loss(PackedBatch(IDS, POSITIONS, targets, 22.0))[1]


def test_a_uniform_router_by_hand() -> None:
    """Each probability is 1/4; the shares of the top 2 of 4 experts sum to 2. 4 x sum(share / 4) = 2, times .5 is 1."""
    model = small_model("qwen3_moe", num_experts=4, experts_per_token=2, load_balancing_coef=0.5)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.gate.weight)
    _, loss = backbone.hidden_and_load_balancing_loss(model, IDS, POSITIONS)
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(1.0)


def test_experts_are_pretrained_and_tuned_and_transformers_loads_it(tmp_path: Path) -> None:
    write_curated(tmp_path)
    tokenize(tmp_path)
    run_pretrain(tmp_path, model={"kind": "qwen3_moe", "num_experts": 4, **SMALL}, steps=5)
    rows = run_sft(tmp_path, steps=20).tables["steps"]
    assert rows[-1]["cross_entropy"] < rows[0]["cross_entropy"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "models/sft")
    assert type(model).__name__ == "Qwen3MoeForCausalLM"
    assert model.generate(torch.tensor([[1, 40, 41]]), max_new_tokens=4, do_sample=False).shape[1] > 3


def test_a_model_without_experts_has_no_load_balancing_loss() -> None:
    assert backbone.hidden_and_load_balancing_loss(small_model("qwen3"), IDS, POSITIONS)[1] is None


@pytest.mark.parametrize(
    "changes", [{}, {"precision": "bf16"}, {"gradient_checkpointing": True}, {"optimizer": "muon"}]
)
def test_experts_train(tmp_path: Path, changes: dict[str, str]) -> None:
    model = small_model("qwen3_moe", num_experts=4)
    work = NextToken(model, packed_rows([20] * 8, 4, 2), packed_rows([20] * 8, 4, 2), None)
    params = LoopParams.model_validate(
        {"steps": 30, "learning_rate": 0.01, "warmup_steps": 2, "num_threads": 1, "precision": "fp32", **changes}
    )
    rows = run(work, params, tmp_path, "test")
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert rows[-1]["cross_entropy"] < rows[-1]["loss"]
    assert abs(rows[-1]["validation_loss"] - rows[-1]["cross_entropy"]) < 0.5
