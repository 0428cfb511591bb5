"""One round with a tiny model, without servers: every step, an interruption, and what is promoted."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import evaluation, promotion
from flows import round as command
from flows.runtime import spool
from flows.versions import contents, subjects
from tasks import models, pipeline_stages, tables
from tasks.conversations import CONVERSATIONS
from tasks.curation import tasks as curation
from tasks.errors import BadInput
from tasks.feedback import FOLDER, FeedbackLog
from tasks.ingestion import tasks as ingestion
from tasks.rounds import rejection, state
from tasks.rounds import tasks as rounds
from tasks.rounds.measures import Answers, answer
from tasks.tokenization import bpe, records
from tasks.tokenization import tasks as tokenization
from tasks.training import tasks as training
from tasks.training.shape import architecture
from tasks.training.stages import reward, sft
from tests.promotion.small import make_model, make_report

SHAPE = architecture.Architecture(width=16, num_layers=1, num_heads=2, max_length=64)
LOOP = {"steps": 2, "learning_rate": 1e-3, "warmup_steps": 0, "num_threads": 1, "device": "cpu", "log_every": 1}
PARAMS = {
    "ingestion": {"sources": {"feedback": {}}}, "curation": {}, "tokenization": {"sequence_length": 64},
    "reward": {**LOOP, "global_batch_size": 4}, "sft": {**LOOP, "global_batch_size": 2, "micro_batch_size": 2},
    "dpo": {**LOOP, "global_batch_size": 4, "max_new_tokens": 4, "validation": {"num_prompts": 2}},
}  # fmt: skip
SETTINGS = {"min_votes": 8, "num_prompts": 4, "num_queued": 4, "max_new_tokens": 4, "num_train_prompts": 8}
TASKS: dict[Any, tuple[str, ...]] = {
    curation: ("curate_records",), ingestion: ("ingest", "report"), training: ("train",),
    tokenization: ("encode_preferences", "encode_conversations"),
    rounds: ("prepare", "evaluate", "write_queue", "write_best_answers"),
}  # fmt: skip


def question(number: int) -> str:
    return f"What follows after {number}?"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a random model, prompts and 24 votes for answers with a full stop; tasks run without Prefect."""
    monkeypatch.chdir(tmp_path)
    for module, names in TASKS.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name).fn)
    monkeypatch.setattr(spool, "folder", lambda: tmp_path / "spool")
    monkeypatch.setattr(contents, "add", lambda path: Path(f"{path}.dvc").write_text("version"))
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    data = Path("data")
    with tables.Writer(data / "conversations/curated", CONVERSATIONS) as writer:
        for number in range(24):
            messages = [
                {"role": "user", "content": question(number)},
                {"role": "assistant", "content": f"{number + 1}."},
            ]
            metadata = json.dumps({"answer": str(number + 1), "closing": "."})
            split = "test" if number % 4 == 3 else "train"
            writer.add_row({"id": str(number), "messages": messages, "source": "numbers", "group": str(number),
                            "split": split, "metadata": metadata})  # fmt: skip
    tokenizer = bpe.train([question(number) for number in range(24)], 270)
    bpe.save(data / "tokens/tokenizer", tokenizer)
    records.write_prompts(tokenizer, data, data / "tokens/prompts")
    models.save(data / "models/sft", architecture.build(SHAPE, tokenizer, 0), tokenizer, {"stage": "sft"})
    add_votes(data, 0)
    return data


def add_votes(data: Path, first: int) -> None:
    log = FeedbackLog(data / FOLDER)
    for number in range(first, first + 24):
        answers = [{"text": f"{number + 1}.", "model": "a"}, {"text": f"{number + 1}", "model": "b"}]
        order = random.Random(number).sample([0, 1], 2)
        log.append({"id": f"vote{number}", "action": "comparison", "annotator": f"annotator{number % 3}",
                    "conversation": f"c{number}", "prompt": [{"role": "user", "content": question(number)}],
                    "answers": answers, "order": order, "choice": 0})  # fmt: skip


def run(data: Path, **changes: Any) -> dict[str, Any]:
    params = rounds.Params.model_validate({**SETTINGS, **changes})
    this = rounds.unfinished(data)
    if this is None:
        this = rounds.begin(data, data / FOLDER, command.start_model("champion", data), params)
    command._run(this, data, params, spool.Session(this.name), data / "models/round")
    return this.state


@pytest.mark.slow
def test_two_rounds_and_an_interruption(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round dies in the policy and continues after its reward model; the second one uses new votes only."""
    train = training.train

    def interrupted(stage: str, *rest: Any) -> Any:
        if stage == "dpo":
            raise KeyboardInterrupt
        return train(stage, *rest)

    monkeypatch.setattr(training, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(data, max_kl=1e6)
    (first,) = state.all_rounds(data)
    assert first.state["steps"] == ["pairs", "reward", "answers"]
    trained: list[tuple[str, Any]] = []

    def recorded(stage: str, params: Any, *rest: Any) -> Any:
        trained.append((stage, params))
        return train(stage, params, *rest)

    monkeypatch.setattr(training, "train", recorded)
    add_votes(data, 100)
    body = run(data, max_kl=1e6)
    assert [stage for stage, _ in trained] == ["dpo"]
    assert body["num_votes"] == 24
    assert (body["counts"]["new_pairs"], body["counts"]["held_out_pairs"]) == (18, 6), "every fourth question is a test"
    assert Path("data/rounds/001.dvc").is_file()
    promoted = body["status"] == "promoted"
    assert promoted == (not body["refusals"])
    assert (data / "models/round").is_dir() == promoted
    if promoted:  # this project has no section evaluation
        assert "not registered, because params.yaml has no section 'evaluation'" in body["champion"]
    assert len((data / "rounds/queue.txt").read_text().splitlines()) > 0

    second = run(data, max_kl=1e6)
    assert second["round"] == 2
    assert second["num_votes"] == 24
    assert second["counts"]["replayed_votes"] > 0
    reward_params = next(params for stage, params in trained if stage == "reward")
    assert reward_params.base == "data/rounds/001/models/reward"
    used = [state.used_ids([one]) for one in state.all_rounds(data)]
    assert not used[0] & used[1]
    assert {"kl_to_first", "kl_to_start", "gold_gain", "win_rate"} <= set(second["results"])


def test_a_round_starts_from_no_model_with_another_tokenizer(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after new data: the champion is a model of the pipeline before. The first model of the rounds changes, too."""
    other = bpe.train(["entirely different words, words, words"], 266)
    models.save(data / "models/champion", architecture.build(SHAPE, other, 0), other, {"stage": "sft"})
    shutil.copytree(data / "models/champion", data / "rounds/first")
    assert command.start_model("champion", data) == data / "models/sft"
    assert "models/champion has another tokenizer" in capsys.readouterr().out
    with pytest.raises(BadInput, match="another tokenizer"):
        command.start_model(str(data / "models/champion"), data)
    this = rounds.begin(data, data / FOLDER, data / "models/sft", rounds.Params())
    assert this.state["first_version"] == state.version(data / "models/sft") == state.version(data / "rounds/first")


def test_rounds_of_two_data_folders_share_no_checkpoints(data: Path, tmp_path: Path) -> None:
    first = rounds.begin(data, data / FOLDER, data / "models/sft", rounds.Params())
    other = shutil.copytree(data, tmp_path / "other")
    assert command._checkpoints(first, "dpo") != command._checkpoints(state.Round(other / "rounds/001"), "dpo")
    assert command._checkpoints(first, "dpo") == command._checkpoints(state.Round(first.folder.resolve()), "dpo")


def test_few_data_are_seen_a_few_times() -> None:
    """40 pairs in batches of 8 for 4 epochs are 20 steps; the steps of params.yaml are meant for more data."""
    stated = reward.Params(steps=350, global_batch_size=8, warmup_steps=50)
    few = command._with_few_epochs("reward", stated, rounds.Params(), 40)
    assert (few.steps, few.num_warmup_steps) == (20, 10)  # type: ignore[attr-defined]
    assert command._with_few_epochs("reward", stated, rounds.Params(), 4000) == stated
    changes = {"reward": {"steps": 350}}
    assert command._with_few_epochs("reward", stated, rounds.Params(changes=changes), 40) == stated


def test_the_rates_of_sft_are_lower_in_a_round() -> None:
    stated = sft.Params(learning_rate=0.02, embedding_learning_rate=0.03)
    low = command._with_low_rates(stated, rounds.Params())
    assert (low.learning_rate, low.embedding_learning_rate) == pytest.approx((0.002, 0.003))  # type: ignore[attr-defined]
    same = command._with_low_rates(stated, rounds.Params(changes={"sft": {"learning_rate": 0.02}}))
    assert (same.learning_rate, same.embedding_learning_rate) == pytest.approx((0.02, 0.003))  # type: ignore[attr-defined]


def test_a_round_hands_the_report_of_its_model_to_promotion(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation finds the models of the round beside those of the pipeline, and its report is judged and kept."""
    with open("params.yaml", "w", encoding="utf-8") as file:
        json.dump({**PARAMS, "evaluation": {"metrics": {}}}, file)
    this = rounds.begin(data, data / FOLDER, data / "models/sft", rounds.Params())
    make_model(this.folder, "new", "dpo")
    make_model(this.folder, "reward", "reward")
    (data / "reports").mkdir()
    (data / "reports/curation.json").write_text("{}")

    def measure_all(params: Any, folder: Path, _: Any) -> list[str]:
        assert params.policies == ("sft", "dpo"), "models/ppo of the pipeline is not of this round"
        models_of_round = {path.name: path.resolve() for path in (folder / "models").iterdir()}
        expected = {"sft": data / "models/sft", **{n: this.folder / "models" / n for n in ("dpo", "reward")}}
        assert models_of_round == {name: path.resolve() for name, path in expected.items()}
        assert (folder / "tokens/tokenizer").is_dir()
        make_report(folder, 0.1, "dpo")
        return []

    monkeypatch.setattr(evaluation, "measure_all", measure_all)
    monkeypatch.setattr(pipeline_stages, "read_stages", lambda: [])
    monkeypatch.setattr(subjects, "hardware", lambda: "a machine")
    assert "version 1 (dpo) is the champion" in command._register(this, data)["champion"]
    assert (data / "models/champion/model.safetensors").read_text() == "new"
    assert (this.folder / "reports/evaluation.json").is_file()


def test_a_model_that_is_worse_than_the_champion_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate of the round has passed it, but promotion measures more: no later round starts from it."""
    this = rounds.begin(data, data / FOLDER, data / "models/sft", rounds.Params())
    make_model(this.folder, "new", "dpo")
    this.update(steps=["pairs", "reward", "answers", "policy", "evaluation"], refusals=[], results={})
    with open("params.yaml", "w", encoding="utf-8") as file:
        json.dump({**PARAMS, "evaluation": {"metrics": {}}}, file)
    monkeypatch.setattr(evaluation, "measure_all", lambda *_: [])
    monkeypatch.setattr(rounds, "keep_evaluation", lambda *_: None)
    monkeypatch.setattr(promotion, "after_round", lambda *_: ("it is worse on gold", True))
    command._run(this, data, rounds.Params(num_queued=0), spool.Session(this.name), data / "models/round")
    assert (this.state["status"], this.state["refusals"]) == ("refused", ["it is worse on gold"])
    assert not (data / "models/round").exists()


@pytest.mark.slow
def test_a_round_of_rejection_sampling(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of three answers is chosen by the reward model; the policy is the stage sft.

    The answers of a random model do not end, and count as finished here.
    """

    def finished_answer(*arguments: Any) -> Answers:
        answers = answer(*arguments)
        return replace(answers, finished=[True] * len(answers.texts))

    monkeypatch.setattr(rejection, "answer", finished_answer)
    body = run(data, method="rejection", num_answers=3, max_kl=1e6)
    assert body["best_of_n"]["mean_best_score"] >= body["best_of_n"]["mean_score"]
    assert (data / "rounds/001/models/sft/manifest.json").is_file()


def test_a_round_that_continues_has_the_session_in_which_it_began(data: Path) -> None:
    """So that MLflow shows it as one run."""
    this = rounds.begin(data, data / FOLDER, data / "models/sft", rounds.Params())
    first = command._session(this)
    assert command._session(state.Round(this.folder)) == first


def test_too_few_votes_begin_no_round(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = rounds.Params.model_validate({**SETTINGS, "min_votes": 25})
    assert command.one_round.fn(params, data) is None
    assert "24 votes wait" in capsys.readouterr().out
    assert state.all_rounds(data) == []


def test_the_champion_or_the_last_stage_is_the_start(data: Path) -> None:
    assert command.start_model("champion", data) == data / "models/sft"
    assert command.start_model("sft", data) == data / "models/sft"
    assert command.start_model("some/folder", data) == Path("some/folder")
