"""The stage ppo on the task of tests/training/tiny.py, with rewards whose effect is known."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import models
from tasks.answers import log_probabilities
from tasks.errors import BadModel, NothingLeft
from tasks.files import write_json
from tasks.reports import Timings
from tasks.training.parallel import launch
from tasks.training.stages import ppo, reward
from tests.training import tiny

QUICK = {
    "steps": 24, "learning_rate": 1e-2, "warmup_steps": 0, "weight_decay": 0.0, "precision": "fp32", "log_every": 2,
    "reward_model_weight": 0.0, "reward_functions": {"tests.training.tiny:num_dots": 1.0}, "max_new_tokens": 6,
    "rollout_size": 16, "num_epochs": 2, "guard": {"max_kl": None}, "validation": {"num_samples": 2},
}  # fmt: skip


def run(data: Path, checkpoints: str = "ck", **changes: Any) -> Any:
    params = ppo.Params(**{**QUICK, **changes})
    return ppo.train(params, data, data / checkpoints, Timings("ppo", data / "timings"))


def weights(data: Path) -> Any:
    return (data / "models/ppo/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"critic": "own"},
        {"critic": "detached"},
        {"advantage": "grpo", "group_size": 4, "rollout_size": 4, "loss_kl_coef": 0.01},
        {"advantage": "rloo", "group_size": 4, "rollout_size": 4},
        {"advantage": "reinforce++", "minibatch_size": 8, "micro_batch_size": 3},
    ],
)
def test_the_policy_learns_what_is_rewarded(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Dots are rewarded, so the number of dots must rise."""
    report = run(tiny.write_data(tmp_path), **changes)
    scores = [row["score"] for row in report.tables["steps"]]
    assert scores[-1] > scores[0] + 0.5
    models.load_causal(tmp_path / "models/ppo")


def test_all_documented_numbers_are_logged(tmp_path: Path) -> None:
    report = run(tiny.write_data(tmp_path), steps=2)
    promised = {"score", "kl", "kl_coef", "entropy", "clip_share", "value_loss", "explained_variance"}
    promised |= {"answer_length", "finished", "gold"}
    promised |= {f"validation_{name}" for name in ("gold", "exact_match", "score", "kl", "length", "finished")}
    assert promised <= set(report.tables["steps"][-1])
    assert {row["step"] for row in report.tables["samples"]} == {0, 2}
    assert report.counts["rollouts"] == 1


def test_the_gold_reward_of_rollouts_is_logged(tmp_path: Path) -> None:
    """If the gold reward is the reward function, score and gold are equal."""
    functions = {"tasks.gold:gold": 1.0}
    report = run(tiny.write_data(tmp_path), reward_functions=functions, rollout_size=600, max_new_tokens=2, steps=2)
    rows = report.tables["steps"]
    assert [row["gold"] for row in rows] == pytest.approx([row["score"] for row in rows])
    assert rows[-1]["gold"] > 0


def test_the_first_update_starts_with_a_policy_equal_to_the_reference(tmp_path: Path) -> None:
    """All probability ratios are 1: there is no KL, and nothing is clipped."""
    first = run(tiny.write_data(tmp_path), steps=1).tables["steps"][0]
    assert first["kl"] == pytest.approx(0.0, abs=1e-4)
    assert first["update_kl"] == pytest.approx(0.0, abs=1e-6)
    assert first["clip_share"] == 0.0


def test_training_raises_the_score_of_a_reward_model(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    reward.train(
        reward.Params(steps=40, learning_rate=1e-2, warmup_steps=0, precision="fp32", global_batch_size=8),
        tmp_path, tmp_path / "rm", Timings("reward", tmp_path / "timings"),
    )  # fmt: skip
    report = run(tmp_path, reward_model_weight=1.0, reward_functions={}, steps=40)
    rows = report.tables["steps"]
    assert rows[-1]["score"] > rows[0]["score"] + 0.5


def test_a_high_kl_coefficient_keeps_kl_low(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    runs = [run(tmp_path, f"ck{c}", rewards={"kl_coef": {"initial": c}}).tables["steps"][-1]["kl"] for c in (0.0, 5.0)]
    assert runs[1] < runs[0] / 2


def test_an_adaptive_coefficient_rises_if_kl_is_above_its_target(tmp_path: Path) -> None:
    report = run(tiny.write_data(tmp_path), rewards={"kl_coef": {"initial": 0.01, "target": 0.01, "horizon": 32}})
    coefs = [row["kl_coef"] for row in report.tables["steps"]]
    assert coefs[-1] > coefs[0]


def test_an_update_with_too_large_a_kl_ends_the_use_of_its_rollout(tmp_path: Path) -> None:
    """Only the first update of a rollout has no KL, so that every second update needs a new one: 24 / 2 rollouts."""
    report = run(tiny.write_data(tmp_path), num_epochs=4, max_update_kl=1e-9)
    assert report.counts["rollouts"] == 12


@pytest.mark.parametrize("kind", ["documents", "conversations"])
def test_ptx_lowers_the_loss_on_earlier_training_data(tmp_path: Path, kind: str) -> None:
    import numpy as np

    from tasks import tokens

    tiny.write_data(tmp_path)
    ids = np.array(tiny.ids("<|document|> a b c d e f g h") * 20, np.uint16)
    positions = np.tile(np.arange(9, dtype=np.uint32), 20)
    stream = tokens.Stream(ids, positions, (positions > 0).astype(np.uint8))
    tokens.write_stream(tmp_path / "tokens" / kind / "train", stream)
    write_json(tmp_path / "tokens/manifest.json", {"sequence_length": 9})
    report = run(tmp_path, ptx_coef=1.0, ptx_data=kind, ptx_length=9, ptx_rows=4)
    losses = [row["ptx_loss"] for row in report.tables["steps"]]
    assert losses[-1] < losses[0]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft 0.21 asks transformers 5.23
def test_lora_trains_the_adapter_and_keeps_the_reference(tmp_path: Path) -> None:
    tiny.prompt_files(
        tiny.write_data(tmp_path) / "tokens/prompts/validation", [("a", {})]
    )  # without gold, the last weights are kept
    report = run(tmp_path, adapter={"name": "lora", "rank": 2}, learning_rate=3e-2)
    assert report.notes[0].startswith("NOT GUARDED")
    rows = report.tables["steps"]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["score"] > rows[0]["score"]
    model, _ = models.load_causal(tmp_path / "models/ppo")
    ids = tiny.prompt("a") + tiny.answer("b")
    before, after = (log_probabilities(m, [ids], [5])[0] for m in (tiny.model(), model))
    assert not torch.allclose(before, after)


@pytest.mark.parametrize("at_step", [7, 8, 9])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, at_step: int) -> None:
    """Killed before, between and after the updates of a rollout; checkpoints exist between rollouts only."""
    settings = {"steps": 14, "checkpoint_every": 1, "evaluate_every": 3, "guard": {"max_kl": 1e9},
                "rewards": {"kl_coef": {"initial": 0.01, "target": 0.1, "horizon": 100}}}  # fmt: skip
    first = run(tiny.write_data(tmp_path), "whole", **settings)
    whole = weights(tmp_path)
    with tiny.fail_at(ppo.PpoWork, at_step):
        run(tmp_path, "killed", **settings)
    second = run(tmp_path, "killed", **settings)
    assert weights(tmp_path) == whole
    assert second.tables == first.tables


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"advantage": "grpo"}, "group_size must be 2 or more"),
        ({"reward_functions": {}}, "there is no reward"),
        ({"clip_range": 0}, "greater than 0"),
    ],
)
def test_inconsistent_params_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ppo.Params(**{**QUICK, **changes})


def test_an_unknown_source_of_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingLeft, match="letters"):
        run(tiny.write_data(tmp_path), prompt_sources=("lettres",))


def test_a_reward_model_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    other = tiny.tokenizer()
    other.add_tokens(["zz"])
    models.save(tmp_path / "models/reward", reward.with_head(tiny.model(), 0), other, {"stage": "reward"})
    with pytest.raises(BadModel, match="another tokenizer"):
        run(tmp_path, reward_model_weight=1.0)


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """Both make the same rollouts, divide each update, and end a rollout together; the first one writes the model."""
    runs = []
    for count in (1, 2):
        data = tiny.write_data(tmp_path / str(count))
        params = ppo.Params(
            **{**QUICK, "steps": 8, "micro_batch_size": 8, "max_update_kl": 1e-4, "launch": {"processes": count}}
        )
        report = launch.train("ppo", params, data, data / "ck", Timings("ppo", data / "timings"))
        runs.append([row["loss"] for row in report.tables["steps"]])
        models.verify(data / "models/ppo")
    assert runs[0] == pytest.approx(runs[1], abs=1e-5)


def test_without_steps_the_base_is_saved_as_it_is(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path)
    report = run(data, steps=0)
    assert report.counts["steps"] == 0
    before = models.load_causal(data / "models/sft")[0].state_dict()
    after = models.load_causal(data / "models/ppo")[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
