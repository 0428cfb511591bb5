"""What a stage records about its base model, and which stages are left out for lack of data."""

from pathlib import Path

import pytest

from tasks import models
from tasks.errors import BadModel
from tasks.files import MANIFEST, write_json
from tasks.training.loop import stage_files
from tasks.training.loop.stage_files import _place_independent, base_model
from tasks.training.stages import dpo, ppo, pretrain, reward, sft


@pytest.mark.parametrize("data", [Path("data"), Path("/elsewhere/data")])
def test_the_recorded_base_does_not_depend_on_the_place_of_the_data(data: Path) -> None:
    assert _place_independent(base_model(None, "sft", data), data) == "data/models/sft"
    assert _place_independent("gpt2", data) == "gpt2"


def write_counts(data: Path, documents: int, conversations: int, pairs: int) -> None:
    counts = {
        "documents": {"train": {"num_documents": documents}, "test": {"num_documents": 0}},
        "conversations": {"train": {"num_conversations": conversations, "num_dropped": 0}},
        "preferences": {"train": {"num_pairs": pairs}},
        "prompts": {"train": {"num_prompts": conversations + pairs}},
    }
    write_json(data / "tokens" / MANIFEST, counts)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1, 1, 1), []),
        ((5, 0, 0), ["sft", "reward", "dpo", "ppo"]),
        ((5, 3, 0), ["reward", "dpo", "ppo"]),
        ((0, 3, 0), ["pretrain", "reward", "dpo", "ppo"]),
        ((0, 0, 2), ["pretrain", "sft"]),
    ],
)
def test_stages_without_data_are_left_out(tmp_path: Path, counts: tuple[int, int, int], expected: list[str]) -> None:
    write_counts(tmp_path, *counts)
    stages = {"pretrain": pretrain, "sft": sft, "reward": reward, "dpo": dpo, "ppo": ppo}
    names = []
    for name, module in stages.items():
        params = module.Params()
        if reason := stage_files.left_out(name, params, tmp_path):
            names.append(name)
            report = stage_files.leave_out(name, name, params, tmp_path, reason)
            assert report.notes == [f"LEFT OUT: {reason}"]
            assert models.left_out(tmp_path / "models" / name) == reason
    assert names == expected


def test_answers_that_were_judged_alone_are_enough_for_kto(tmp_path: Path) -> None:
    counts = {"preferences": {"train": {"num_pairs": 0, "num_unpaired": 7}}}
    write_json(tmp_path / "tokens" / MANIFEST, counts)
    assert stage_files.left_out("dpo", dpo.Params(loss="kto"), tmp_path) is None
    reason = "the data has no preference pairs, only 7 answers for dpo with loss: kto"
    assert stage_files.left_out("dpo", dpo.Params(), tmp_path) == reason
    assert stage_files.left_out("reward", reward.Params(), tmp_path) == reason


def test_a_stage_starts_from_the_base_of_a_stage_that_was_left_out(tmp_path: Path) -> None:
    """Preferences only: pretrain and sft are left out, and dpo starts from the base of pretrain."""
    write_counts(tmp_path, 0, 0, 2)
    stage_files.leave_out("pretrain", "pretrain", pretrain.Params(base="org/model"), tmp_path, "the data has none")
    stage_files.leave_out("sft", "sft", sft.Params(), tmp_path, "the data has none")
    assert base_model(None, "sft", tmp_path) == "org/model"
    stage_files.leave_out("pretrain", "pretrain", pretrain.Params(), tmp_path, "the data has no documents")
    with pytest.raises(BadModel, match=r"the stage pretrain was left out \(the data has no documents\). Set `base`"):
        base_model(None, "sft", tmp_path)
    with pytest.raises(BadModel, match="contains no model, because its stage was left out"):
        models.verify(tmp_path / "models/sft")
