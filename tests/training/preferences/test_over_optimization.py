"""A planted flaw: a reward model that prefers long answers. PPO must detect it and return its best weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks import models
from tasks.answers import answer_logits, answer_states, collate, token_log_probs
from tasks.files import read_json
from tasks.reports import Timings
from tasks.training.stages import ppo, reward
from tests.training import tiny

LETTERS = "abcdefghijklmno"


def next_letter(letter: str) -> str:
    """The correct answer to `letter`."""
    return chr(ord(letter) + 1)


def trained_policy() -> object:
    """A model that answers with the next letter; half of its answers end with a dot."""
    model = tiny.model(width=32, std=0.1)
    sequences = [tiny.prompt(x) + tiny.answer(next_letter(x) + end) for x in LETTERS for end in ("", " .")]
    batch = collate(sequences, [5] * len(sequences), pad_id=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(50):
        logits = answer_logits(model, answer_states(model, batch))
        (-token_log_probs(logits, batch.targets).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an sft model that solves its task, and a reward model trained to prefer longer answers."""
    folder = tiny.write_data(tmp_path_factory.mktemp("flaw"))
    models.save(folder / "models/sft", trained_policy(), tiny.tokenizer(), {"stage": "sft"})
    rows = [(x, " ".join([y] * long), y) for long in (3, 5, 7) for x, y in zip(LETTERS, LETTERS[::-1], strict=True)]
    tiny.pair_files(folder / "tokens/preferences/train", rows)
    params = reward.Params(steps=60, learning_rate=1e-2, warmup_steps=0, precision="fp32", global_batch_size=16)
    reward.train(params, folder, folder / "reward", Timings("reward", folder / "timings"))
    return folder


def run_ppo(data: Path, name: str, **changes: object) -> Any:
    """PPO with that reward model and without a KL penalty."""
    settings = {
        "steps": 160, "learning_rate": 2e-3, "warmup_steps": 0, "weight_decay": 0.0, "precision": "fp32",
        "rollout_size": 32, "num_epochs": 2, "max_new_tokens": 8, "evaluate_every": 4,
        "rewards": {"kl_coef": {"initial": 0.0}, "clip_scores": None}, "guard": {"max_kl": None, "min_drop": 0.1},
    }  # fmt: skip
    params = ppo.Params(**{**settings, **changes})
    return ppo.train(params, data, data / name, Timings("ppo", data / "timings"))


def test_the_flaw_is_detected_and_the_best_weights_are_restored(data: Path) -> None:
    report = run_ppo(data, "guarded")
    curve = report.tables["curve"]
    assert report.notes[0].startswith("OVER-OPTIMIZATION")
    assert report.counts["steps"] < 160
    assert curve[-1]["score"] > curve[0]["score"]
    assert curve[-1]["gold"] < curve[0]["gold"]
    assert curve[-1]["length"] > curve[0]["length"]
    report.write(data / "reports")
    assert "OVER-OPTIMIZATION" in read_json(data / "reports/ppo.json")["notes"][0]
    best = max(row["gold"] for row in curve)
    kept, _ = models.load_causal(data / "models/ppo")
    assert validate(data, kept)["gold"] == pytest.approx(best)


def validate(data: Path, model: Any) -> Any:
    """Evaluate a model as a run of ppo does."""
    params = ppo.Params(max_new_tokens=8, precision="fp32")
    work = ppo.build(params, data, tiny.tokenizer())
    assert work.validation is not None
    return work.validation.measure(model, 0)


def test_without_the_flaw_the_same_training_raises_gold(data: Path) -> None:
    """If correct answers with a dot are rewarded, gold and score rise together, and the run is not ended."""
    rewards = {"reward_model_weight": 0.0, "reward_functions": {"tests.training.tiny:right_and_in_style": 1.0}}
    report = run_ppo(data, "honest", steps=40, **rewards)
    assert not any("OVER-OPTIMIZATION" in note for note in report.notes)
    curve = report.tables["curve"]
    assert max(row["gold"] for row in curve) > curve[0]["gold"] + 0.1
