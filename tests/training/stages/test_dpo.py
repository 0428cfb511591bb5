"""The stage dpo on the task of tests/training/tiny.py: the chosen answer ends with a dot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks import models, pairs
from tasks.answers import log_probabilities
from tasks.pairs import read_pairs
from tasks.reports import Timings
from tasks.training.preferences.order import step_indices
from tasks.training.preferences.reference import add_reference
from tasks.training.stages import dpo
from tests.training import tiny

QUICK = {"steps": 30, "learning_rate": 1e-2, "warmup_steps": 0, "weight_decay": 0.0, "precision": "fp32",
         "global_batch_size": 8, "log_every": 10, "evaluate_every": 10, "max_new_tokens": 4,
         "guard": {"max_kl": None}}  # fmt: skip


def run(data: Path, checkpoints: str = "ck", **changes: Any) -> Any:
    params = dpo.Params(**{**QUICK, **changes})
    return dpo.train(params, data, data / checkpoints, Timings("dpo", data / "timings"))


@pytest.mark.parametrize(
    "changes",
    [{}, {"loss": "ipo", "per_token": True}, {"loss": "kto", "global_batch_size": 16}, {"label_smoothing": 0.1}],
)
def test_the_policy_learns_to_prefer_chosen_answers(tmp_path: Path, changes: dict[str, Any]) -> None:
    report = run(tiny.write_data(tmp_path), **changes)
    rows = report.tables["steps"]
    assert rows[0]["accuracy"] < 0.6  # policy and reference are equal before the first update
    # The loss kto judges each answer by itself, which is harder than to rank the two answers of a pair.
    assert rows[-1]["validation_accuracy"] >= (0.7 if changes.get("loss") == "kto" else 1.0)
    assert rows[-1]["chosen_reward"] > rows[-1]["rejected_reward"]
    assert {row["step"] for row in report.tables["samples"]} == {0, 10, 20, 30}


def test_the_first_loss_is_ln_2_and_the_reference_is_stored(tmp_path: Path) -> None:
    report = run(tiny.write_data(tmp_path), steps=1)
    assert report.tables["steps"][0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    stored = np.load(tmp_path / "ck/reference-train.npy")
    train_pairs = read_pairs(tmp_path / "tokens/preferences/train", 99)
    expected = log_probabilities(tiny.model(), [train_pairs.sequence(2, "rejected")], [len(train_pairs.prompts[2])])[
        0
    ].sum()
    assert stored.shape == (2, 15)
    assert stored[1, 2] == pytest.approx(float(expected), abs=1e-4)


def test_a_stored_reference_is_not_computed_again(tmp_path: Path) -> None:
    train_pairs = read_pairs(tiny.write_data(tmp_path) / "tokens/preferences/train", 99)
    path = tmp_path / "reference.npy"
    np.save(path, np.full((2, 15), 7.0, np.float32))
    assert add_reference(train_pairs, None, torch.float32, path, 0).reference[0, 0] == 7.0
    path.write_bytes(b"half a file")
    assert add_reference(train_pairs, tiny.model(), torch.float32, path, 0).reference[0, 0] < 0


def test_the_reference_of_pairs_that_are_not_read_is_not_computed(tmp_path: Path) -> None:
    run(tiny.write_data(tmp_path), steps=1, global_batch_size=4)
    of_train = np.load(tmp_path / "ck/reference-train.npy")
    read = step_indices(15, 4, 0, 0)
    assert sorted(np.flatnonzero(~np.isnan(of_train[0]))) == sorted(read)
    train_pairs = read_pairs(tmp_path / "tokens/preferences/train", 99)
    path = tmp_path / "ck/reference-train.npy"
    assert not np.isnan(add_reference(train_pairs, tiny.model(), torch.float32, path, 0).reference).any()


def write_unpaired(data: Path, letters: str, *, only_good: bool = False) -> None:
    """Add answers that were judged alone: good with a dot for every second letter, bad without a dot for the others."""
    is_good = [only_good or number % 2 == 0 for number in range(len(letters))]
    texts = [f"{chr(ord(x) + 1)} ." if good else chr(ord(x) + 1) for x, good in zip(letters, is_good, strict=True)]
    prompts, answers = [np.array(tiny.prompt(x)) for x in letters], [np.array(tiny.answer(text)) for text in texts]
    for split in ("train", "validation"):
        pairs.write_unpaired(data / "tokens/preferences" / split, prompts, answers, is_good, len(tiny.WORDS))


@pytest.mark.parametrize("with_pairs", [False, True])
def test_kto_learns_from_answers_that_were_judged_alone(tmp_path: Path, with_pairs: bool) -> None:
    tiny.write_data(tmp_path)
    if not with_pairs:
        for split in ("train", "validation"):
            tiny.pair_files(tmp_path / "tokens/preferences" / split, [])
    write_unpaired(tmp_path, "abcdefghijklmn")
    report = run(tmp_path, loss="kto")
    first, *_, last = report.tables["steps"]
    assert first["loss"] == pytest.approx(0.5, abs=1e-5)  # 1 - sigmoid(0)
    assert last["validation_chosen_reward"] > 0 > last["validation_rejected_reward"]
    assert last["validation_accuracy"] > 0.9
    assert report.counts["unpaired_answers"] == 14
    assert report.counts["train_answers"] == (44 if with_pairs else 14)
    assert report.counts["good_answers"] == report.counts["bad_answers"]
    assert not [note for note in report.notes if "authors of KTO" in note]


def test_kto_warns_about_unequal_numbers_of_good_and_bad_answers(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    write_unpaired(tmp_path, "abcdefghijklmno", only_good=True)
    report = run(tmp_path, loss="kto", steps=1)
    assert any("30 good and 15 bad answers are weighted 30 : 15" in note for note in report.notes)
    report = run(tmp_path, "weighted", loss="kto", steps=1, undesirable_weight=2.0)
    assert not [note for note in report.notes if "authors of KTO" in note]


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_losses_of_pairs_report_the_answers_that_they_do_not_use(tmp_path: Path, loss: str) -> None:
    tiny.write_data(tmp_path)
    write_unpaired(tmp_path, "abcd")
    report = run(tmp_path, loss=loss, steps=1)
    assert report.counts["unused_unpaired"] == 8  # 4 of each split
    note = f"8 answers that were judged alone are not used, because the loss {loss} compares the two answers of a pair"
    assert any(note in line for line in report.notes)


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    settings = {"steps": 12, "checkpoint_every": 5, "evaluate_every": 3}
    first = run(tmp_path, "whole", **settings)
    whole = (tmp_path / "models/dpo/model.safetensors").read_bytes()
    with tiny.fail_at(dpo.DpoWork, at_step=8):
        run(tmp_path, "killed", **settings)
    second = run(tmp_path, "killed", **settings)
    assert (tmp_path / "models/dpo/model.safetensors").read_bytes() == whole
    assert second.tables == first.tables


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft 0.21 asks transformers 5.23
def test_lora_trains_few_weights_and_its_reference_is_the_base_model(tmp_path: Path) -> None:
    report = run(tiny.write_data(tmp_path), adapter={"name": "lora", "rank": 2}, learning_rate=3e-2)
    assert report.tables["steps"][-1]["validation_accuracy"] > 0.8
    assert report.counts["num_trainable_parameters"] < tiny.model().num_parameters() / 2
    assert report.tables["curve"][0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert report.tables["curve"][-1]["kl"] > 0.01
    models.load_causal(tmp_path / "models/dpo")


def test_the_report_says_that_a_run_without_prompts_is_not_guarded(tmp_path: Path) -> None:
    tiny.write_data(tmp_path)
    report = run(tmp_path, steps=2, prompt_sources=("no such task",))
    assert report.notes[0].startswith("NOT GUARDED")


@pytest.mark.parametrize(("loss", "kind", "share"), [("sigmoid", "pairs", "94 %"), ("kto", "answers", "47 %")])
def test_the_report_says_what_is_too_long(tmp_path: Path, loss: str, kind: str, share: str) -> None:
    """Chosen answers have one token more than rejected ones; one pair is shorter."""
    data = tiny.write_data(tmp_path)
    rows = [(x, f"{x} .", x) for x in "abcdefghijklmno"]
    tiny.pair_files(data / "tokens/preferences/train", [*rows, ("a", "b", "c")])
    report = run(data, loss=loss, steps=1, max_length=len(tiny.prompt("a")) + 2)
    assert f"; 15 {kind} ({share}) longer than max_length (7 tokens) are left out" in report.summary


def test_without_steps_the_base_is_saved_as_it_is(tmp_path: Path) -> None:
    data = tiny.write_data(tmp_path)
    report = run(data, steps=0)
    assert report.counts["steps"] == 0
    before = models.load_causal(data / "models/sft")[0].state_dict()
    after = models.load_causal(data / "models/dpo")[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
