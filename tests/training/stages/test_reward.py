"""The stage reward on the task of tests/training/tiny.py: the chosen answer ends with a dot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tasks import models
from tasks.answers import pad, reward_scores
from tasks.errors import BadModel, NothingLeft
from tasks.pairs import Pairs, Side, read_pairs, write_unpaired
from tasks.reports import Timings
from tasks.training.stages import reward
from tests.training import tiny

QUICK = {"steps": 40, "learning_rate": 1e-2, "warmup_steps": 0, "weight_decay": 0.0, "precision": "fp32",
         "global_batch_size": 8, "log_every": 10}  # fmt: skip


def run(data: Path, checkpoints: str = "ck", **changes: Any) -> Any:
    params = reward.Params(**{**QUICK, **changes})
    return reward.train(params, data, data / checkpoints, Timings("reward", data / "timings"))


def test_a_preference_is_learned_and_measured(tmp_path: Path) -> None:
    report = run(tiny.write_data(tmp_path))
    accuracy = report.scores["accuracy"]
    assert (accuracy.value, accuracy.n) == (1.0, 15)
    assert report.scores["accuracy_by_reason"]["style"].value == 1.0
    assert report.scores["accuracy_of_length_alone"].value == 1.0
    assert report.scores["length_bias_of_labels"] == pytest.approx(1.0)
    assert report.counts["train_pairs"] == 15


def test_answers_that_were_judged_alone_are_reported_as_unused(tmp_path: Path) -> None:
    ids = [np.array(tiny.prompt("a"))], [np.array(tiny.answer("b ."))]
    write_unpaired(tiny.write_data(tmp_path) / "tokens/preferences/train", *ids, [True], len(tiny.WORDS))
    report = run(tmp_path, steps=1)
    assert report.counts["unused_unpaired"] == 1
    assert any("1 answers that were judged alone are not used" in note for note in report.notes)


def test_plain_transformers_gives_the_same_scores(tmp_path: Path) -> None:
    run(tiny.write_data(tmp_path), steps=5)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "models/reward")
    loaded, tokenizer = models.load_reward(tmp_path / "models/reward")
    assert (model.config.num_labels, tokenizer.pad_token_id) == (1, 0)
    held_out = read_pairs(tmp_path / "tokens/preferences/validation", 99)
    sequences = [held_out.sequence(i, side) for i in range(4) for side in ("chosen", "rejected")]
    ids, _ = pad(sequences, pad_id=0)
    expected = model(input_ids=ids, attention_mask=ids != 0).logits[:, 0].detach()
    torch.testing.assert_close(reward_scores(loaded, sequences, pad_id=0, batch_size=3), expected)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft 0.21 asks transformers 5.23
@pytest.mark.parametrize("adapter", [{"name": "lora", "rank": 2}, "ia3", {"name": "lora", "rank": 2, "base_bits": 4}])
def test_an_adapter_is_trained_with_the_head_and_merged(tmp_path: Path, adapter: dict[str, Any] | str) -> None:
    if "base_bits" in adapter:
        pytest.importorskip("bitsandbytes")
    report = run(tiny.write_data(tmp_path), adapter=adapter, learning_rate=3e-2)
    assert report.scores["accuracy"].value > 0.9
    assert report.counts["num_trainable_parameters"] < report.counts["num_parameters"] / 4
    model, _ = models.load_reward(tmp_path / "models/reward")
    held_out = read_pairs(tmp_path / "tokens/preferences/validation", 99)
    chosen, rejected = reward.pair_scores(model, held_out, 0)
    assert (chosen > rejected).float().mean() > 0.9


def test_the_trunk_is_that_of_the_base_model(tmp_path: Path) -> None:
    causal = tiny.model()
    model = reward.with_head(causal, seed=0)
    ids = torch.tensor([tiny.prompt("a b")])
    expected = tiny.model().model(ids).last_hidden_state
    torch.testing.assert_close(model.model(ids).last_hidden_state, expected)


def test_a_reward_model_as_the_base_keeps_its_head(tmp_path: Path) -> None:
    """The stage named `next` starts from the reward model; with a rate of 1e-9 its scores stay what they were."""
    run(tiny.write_data(tmp_path), steps=20)
    base = str(tmp_path / "models/reward")
    params = reward.Params(**{**QUICK, "base": base, "steps": 1, "learning_rate": 1e-9})
    reward.train(params, tmp_path, tmp_path / "ck2", Timings("next", tmp_path / "timings"), "next")
    held_out = read_pairs(tmp_path / "tokens/preferences/validation", 99)
    sequences = [held_out.sequence(i, "chosen") for i in range(4)]
    scores = [
        reward_scores(models.load_reward(tmp_path / "models" / name)[0], sequences, pad_id=0)
        for name in ("reward", "next")
    ]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-5)


def test_each_answer_of_a_ranked_list_is_scored_once_and_the_list_weighs_one() -> None:
    """The answers b > c > d to `a` are three pairs of one list; `e` has one pair: five answers in total."""
    rows = [("a", "b", "c"), ("a", "b", "d"), ("a", "c", "d"), ("e", "f", "g")]
    answers: dict[Side, list[Any]] = {
        "chosen": [np.array(tiny.answer(row[1])) for row in rows],
        "rejected": [np.array(tiny.answer(row[2])) for row in rows],
    }
    pairs = Pairs([np.array(tiny.prompt(row[0])) for row in rows], answers, [""] * 4, np.array([0, 0, 0, 1]))
    work = reward.RewardWork(tiny.model(), pairs, None, reward.Params(global_batch_size=2), pad_id=0)
    (batch,) = work.batches(0)
    assert (len(batch.answers.ids), len(batch.answers.lengths)) == (2, 5)
    sequences = {tuple(batch.answers.ids[0].tolist()), tuple(batch.answers.ids[1].tolist())}
    expected = tiny.prompt("a") + tiny.answer("b") + tiny.answer("c") + tiny.answer("d")
    assert tuple(expected) in sequences
    assert sorted(batch.pair_weights.tolist()) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])
    assert batch.weight == pytest.approx(2.0)


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    runs = [run(tmp_path, f"ck{size}", steps=3, micro_batch_size=size).tables["steps"] for size in (None, 3)]
    for one, two in zip(*runs, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    run(tmp_path, "whole", steps=12, checkpoint_every=5)
    whole = (tmp_path / "models/reward/model.safetensors").read_bytes()

    with tiny.fail_at(reward.RewardWork, at_step=8):
        run(tmp_path, "killed", steps=12, checkpoint_every=5)
    run(tmp_path, "killed", steps=12, checkpoint_every=5)
    assert (tmp_path / "models/reward/model.safetensors").read_bytes() == whole


def test_a_run_without_pairs_is_refused(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    with pytest.raises(NothingLeft, match="longer than 3 tokens"):
        run(tmp_path, max_length=3)


def test_a_missing_base_model_is_reported(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    with pytest.raises(BadModel, match="nowhere"):
        run(tmp_path, base=str(tmp_path / "nowhere"))
