"""Settings of the optimizer by the origin of the weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.runtime import params as sections
from tasks import models
from tasks.errors import BadParams, GateFailed
from tasks.reports import Report, Timings
from tasks.training import tasks
from tasks.training.loop import origins, rates
from tasks.training.stages import dpo, ppo, pretrain, sft
from tests.tokenization.small_data import write_curated
from tests.tokenization.test_tasks import tokenize
from tests.training.models import small_model

SCRATCH = {"optimizer": "muon", "learning_rate": 0.01, "weight_decay": 0.0}


def save_model(folder: Path, base: str | None, tokenizer: Any) -> Path:
    models.save(folder, small_model(), tokenizer, {"stage": folder.name, "base": base})
    return folder


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens and models: of random origin (pretrain, sft), of a hub model (based, tuned), of an unknown one."""
    data = tmp_path_factory.mktemp("rates") / "data"
    write_curated(data)
    tokenizer = tokenize(data)
    save_model(data / "models/pretrain", None, tokenizer)
    save_model(data / "models/sft", "data/models/pretrain", tokenizer)
    save_model(data / "models/based", "some/model", tokenizer)
    save_model(data / "models/tuned", "data/models/based", tokenizer)
    save_model(data / "models/lost", "data/models/nowhere", tokenizer)
    shutil.copytree(data / "models/pretrain", data / "foreign")
    (data / "foreign/athanor.json").unlink()
    return data


def test_settings_of_the_section_have_priority_over_those_from_scratch() -> None:
    params = sft.Params.model_validate({"from_scratch": SCRATCH, "weight_decay": 0.3, "max_spike": None})
    assert (params.optimizer, params.learning_rate, params.weight_decay) == ("muon", 0.01, 0.3)
    assert params.max_spike is None
    assert params.from_scratch is not None
    assert params.from_scratch.model_fields_set == {"optimizer", "learning_rate"}
    again = sft.Params.model_validate(params.model_dump(mode="json"))
    assert (again.optimizer, again.learning_rate, again.weight_decay) == ("muon", 0.01, 0.3)


def test_the_size_of_pretrain_leaves_the_settings_from_scratch() -> None:
    params = pretrain.Params.model_validate({"size": "nano", "from_scratch": SCRATCH})
    assert (params.optimizer, params.learning_rate) == ("muon", 0.01)
    assert pretrain.Params.model_validate({"size": "nano"}).learning_rate < 0.01


def test_the_sections_of_params_yaml_train_from_scratch_as_stated() -> None:
    for name, expected in {"pretrain": 0.01, "sft": 0.02, "reward": 0.01, "dpo": 1e-4, "ppo": 5e-5}.items():
        params: Any = sections.load(name)
        assert params.learning_rate == expected
        assert params.from_scratch is not None


@pytest.mark.parametrize(
    ("base", "is_trained"),
    [("pretrain", False), ("sft", False), ("based", True), ("tuned", True), ("lost", True), ("foreign", True)],
)
def test_a_model_descends_from_a_trained_base_or_from_random_weights(base: str, is_trained: bool, ready: Path) -> None:
    folder = ready / ("foreign" if base == "foreign" else f"models/{base}")
    assert origins.is_trained_base(folder) == is_trained
    assert origins.is_trained_base("hub/name")
    assert not origins.is_trained_base(None)


def test_the_base_of_a_model_inside_a_round(tmp_path: Path) -> None:
    """A round is a data folder inside another one: its models descend from data/models/pretrain, which has no base."""
    bases = {
        "models/pretrain": None, "rounds/001/models/start": "data/models/pretrain",
        "rounds/001/models/dpo": "data/rounds/001/models/start", "rounds/002/models/start": "data/models/start",
    }  # fmt: skip
    for name, base in bases.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "athanor.json").write_text(json.dumps({"base": base}))
    assert not origins.is_trained_base(tmp_path / "data/rounds/001/models/dpo")
    assert origins.is_trained_base(tmp_path / "data/rounds/002/models/start"), "a folder is not its own base"


def test_published_rates_by_size_and_with_an_adapter() -> None:
    """The cube root of 7e9 / 7e6 is 10; that of 7e9 / 56e9 is a half; the factor is at most 10."""
    assert rates.published_rate("sft", 7e9, False) == 2e-5
    assert rates.published_rate("sft", 7e9, True) == 2e-4
    assert rates.published_rate("sft", 7e6, False) == 2e-4
    assert rates.published_rate("sft", 56e9, False) == 1e-5
    assert rates.published_rate("dpo", 7e9, False) == 5e-7
    assert rates.published_rate("ppo", 1, False) == 1e-5


def test_a_trained_base_gets_adamw_and_a_published_rate(ready: Path) -> None:
    params = sft.Params.model_validate({"from_scratch": SCRATCH, "base": "tuned", "steps": 100})
    resolved, notes = rates.resolve(params, "sft", ready)
    expected = rates.published_rate("sft", origins.num_weights(ready / "models/tuned"), False)
    assert (resolved.optimizer, resolved.learning_rate, resolved.warmup_steps) == ("adamw", expected, 3)
    assert resolved.evaluate_first
    assert "adamw with the learning rate" in notes[0]
    stated = params.model_copy(update={"learning_rate": 0.02})
    assert rates.resolve(stated, "sft", ready)[0].learning_rate == expected, "0.02 is not stated by the section"
    stated = sft.Params.model_validate({"from_scratch": SCRATCH, "base": "tuned", "learning_rate": 0.02})
    resolved, notes = rates.resolve(stated, "sft", ready)
    assert (resolved.learning_rate, resolved.optimizer) == (0.02, "adamw")
    assert notes[0].endswith("as params.yaml states.")
    scratch, notes = rates.resolve(sft.Params.model_validate({"from_scratch": SCRATCH}), "sft", ready)
    assert (scratch.optimizer, scratch.learning_rate, scratch.evaluate_first, notes) == ("muon", 0.01, False, [])


def train(ready: Path, tmp_path: Path, **settings: Any) -> Report:
    """Run sft as the flow does, on the CPU."""
    shutil.copytree(ready, tmp_path / "data")
    section = {
        "from_scratch": SCRATCH,
        "global_batch_size": 4,
        "micro_batch_size": 4,
        "device": "cpu",
        "num_threads": 1,
    }
    params = sft.Params.model_validate({**section, **settings})
    data, timings = tmp_path / "data", Timings("sft", tmp_path / "timings")
    report: Report = tasks.train.fn("sft", params, data, tmp_path / "checkpoints", timings)
    tasks.write_report.fn(report, params, data, timings)
    return report


def test_steps_0_keeps_the_base_as_it_is(ready: Path, tmp_path: Path) -> None:
    report = train(ready, tmp_path, base="tuned", steps=0)
    assert report.counts["steps"] == 0
    assert report.scores["validation_loss"] > 0
    before = models.load_causal(ready / "models/tuned")[0].state_dict()
    after = models.load_causal(tmp_path / "data/models/sft")[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_trained_base_is_evaluated_before_the_first_step(ready: Path, tmp_path: Path) -> None:
    report = train(ready, tmp_path, base="tuned", steps=4)
    rows = report.tables["steps"]
    assert [row["step"] for row in rows] == [0, 1, 4]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert any("descend from" in note for note in report.notes)


def test_a_run_that_makes_its_base_worse_fails_its_gate(ready: Path, tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match="has made its base worse") as error:
        train(ready, tmp_path, base="tuned", steps=3, learning_rate=30.0, warmup_steps=0)
    assert error.value.exit_code == 6
    assert (tmp_path / "data/reports/sft.json").is_file(), "everything is written"
    rows = [{"step": step, "validation_loss": loss} for step, loss in ((0, 2.0), (5, 1.0), (9, 3.0))]
    report = Report("sft", tables={"steps": rows})
    rates.check_gain(report, sft.Params(may_end_worse=True))
    rates.check_gain(report, sft.Params(keep_best=True))
    rates.check_gain(Report("sft", tables={"steps": rows[1:]}), sft.Params())
    with pytest.raises(GateFailed, match="was 2 before the first step and is 3"):
        rates.check_gain(report, sft.Params())
    lost = [rows[0], {**rows[1], "validation_loss": float("nan")}]
    with pytest.raises(GateFailed, match="is nan"):
        rates.check_gain(Report("sft", tables={"steps": lost}), sft.Params())


def test_steps_0_needs_a_base() -> None:
    with pytest.raises(ValueError, match="base is null"):
        pretrain.Params(steps=0)


def test_lengths_fit_the_context_of_the_base(ready: Path) -> None:
    """The context of the small model has 1024 tokens; the rows of conversations have 64."""
    context = models.load_config(ready / "models/sft").max_position_embeddings
    short, notes = origins.fit_context(dpo.Params(max_length=5000), "dpo", ready)
    assert short.max_length == context - 1
    assert "instead of 5000" in notes[0]
    short, notes = origins.fit_context(ppo.Params(max_prompt_length=5000, max_new_tokens=24), "ppo", ready)
    assert short.max_prompt_length == context - 24
    params = dpo.Params(max_length=100)
    assert origins.fit_context(params, "dpo", ready) == (params, [])
    with pytest.raises(BadParams, match="no prompt fits"):
        origins.fit_context(ppo.Params(max_new_tokens=context), "ppo", ready)
    with pytest.raises(BadParams, match=r"pretrain\.sequence_length is 9999"):
        origins.fit_context(pretrain.Params(base="sft", sequence_length=9999), "pretrain", ready)
    assert origins.fit_context(sft.Params(), "sft", ready) == (sft.Params(), [])
