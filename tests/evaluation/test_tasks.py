"""The whole evaluation of the small project: the files, their reproducibility, and the gates."""

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet
from pydantic import ValidationError

from tasks import catalog, models, reports
from tasks.errors import BadInput, GateFailed
from tasks.evaluation import score_gates, tasks
from tasks.evaluation.inputs import EvaluationInputs
from tasks.evaluation.tasks import Params
from tasks.files import read_json, write_json
from tasks.pairs import write_prompts
from tasks.pipeline_stages import PipelineStage, read_stages
from tasks.reports import Timings, write_csv
from tests.evaluation import small
from tests.sources import ROOT

STAGES = read_stages(ROOT / "dvc.yaml", ROOT / "params.yaml")
SMALL: dict[str, Any] = {
    "num_prompts": 6,
    "max_new_tokens": 6,
    "metrics": {
        "perplexity": {"sequence_length": 16},
        "accuracy": {},
        "bleu": {"num_resamples": 10},
        "multiple_choice": {"num_questions": 4},
        "gold": None,
        "kl": {},
        "reward_accuracy": {},
        "win_rate": {},
        "over_optimization": {},
        "samples": {"num_prompts": 2},
    },
}


def evaluate(data: Path, params: Params) -> list[str]:
    timings = Timings("evaluation", data / "timings")
    inputs = tasks.open_inputs.fn(params, data, STAGES)
    metrics = params.active_metrics()
    results = [tasks.measure.fn(name, metric_params, inputs, timings) for name, metric_params in metrics]
    for name, loaded in tasks.load_benchmarks.fn(params).items():
        results.append(tasks.measure_benchmark.fn(name, params, inputs, loaded, timings))
    return tasks.write_report.fn(results, inputs, params, data, STAGES, timings)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = small.write_project(tmp_path_factory.mktemp("data"))
    curve = [{"step": i, "gold": 0.9 - i / 10, "score": i / 5, "kl": i / 9, "length": 3} for i in range(6)]
    (data / "reports/ppo").mkdir(parents=True)
    write_csv(data / "reports/ppo/curve.csv", curve)
    evaluate(data, Params.model_validate(SMALL))
    return data


def test_the_keys_that_other_code_reads(data: Path) -> None:
    body = read_json(data / "reports/evaluation.json")
    scores = [body[name] for name in ("perplexity", "unigram_perplexity", "bigram_perplexity", "reward_accuracy")]
    scores += [body[name][model] for name in ("exact_match", "gold", "kl") for model in ("sft", "ppo", "dpo")]
    for score in scores:
        assert set(score) - {"baseline", "baseline_name"} == {"value", "low", "high", "n"}
        assert score["low"] <= score["value"] <= score["high"]
        assert score["n"] > 0


def test_every_score_is_described(data: Path) -> None:
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    gates = {"gates_checked", "gates_failed", "gates_not_applicable"}
    scores = set(reports.read(data / "reports/evaluation.json")) - {"notes", "summary", "highlights", *gates}
    assert not [name for name in scores if f"`{name}`" not in page]


def test_the_names_of_scores_are_those_that_the_metrics_state(data: Path) -> None:
    names = Params.model_validate(SMALL).score_names(["pretrain", "sft", "reward", "ppo", "dpo"])
    stated = [name for own in names.values() for name in own]
    body = reports.read(data / "reports/evaluation.json")
    scores = [name for name, _ in score_gates.flatten(body) if not name.startswith("gates_")]
    assert len(scores) > 30
    assert not [name for name in scores if not any(fnmatchcase(name, one) for one in stated)]


def test_a_gate_on_a_model_that_was_left_out_does_not_apply(tmp_path: Path) -> None:
    data = small.write_project(tmp_path)
    models.write_left_out(data / "models/dpo", "the data has no preferences", None)
    gates = {"scores": {"exact_match.dpo": {"min": 0.5}, "exact_match.sft": {"min": -1}}}
    assert evaluate(data, Params.model_validate({**SMALL, "metrics": {"accuracy": {}}, "gates": gates})) == []
    body = read_json(data / "reports/evaluation.json")
    expected = "gate that does not apply: exact_match.dpo: dpo was not measured: the data has no preferences"
    assert expected in " ".join(body["notes"])


def test_over_optimization_is_the_first_note_and_fails_its_gate(data: Path) -> None:
    body = read_json(data / "reports/evaluation.json")
    assert body["over_optimized"] == {"ppo": 1, "dpo": 0}
    assert body["notes"][0].startswith("GATE FAILED: refuse_over_optimization")
    assert body["notes"][1].startswith("OVER-OPTIMIZED: ppo: from step 1 to step 5")
    assert (body["gates_checked"], body["gates_failed"]) == (1, 1)


def test_the_same_inputs_give_the_same_bytes(data: Path) -> None:
    def digests() -> dict[str, str]:
        files = [data / "reports/evaluation.json", *(data / "reports/evaluation").rglob("*.*")]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    before = digests()
    assert {"report.html", "over_optimization.png", "over_optimization.csv", "samples.csv"} <= set(before)
    evaluate(data, Params.model_validate(SMALL))
    assert digests() == before


def test_the_engine_gives_the_same_report(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of the engine compute the answers of all models, greedy and sampled, and the likelihoods of options."""
    report = (data / "reports/evaluation.json").read_bytes()
    num_tasks = small.use_engine(monkeypatch, tmp_path, 0)
    evaluate(data, Params.model_validate(SMALL))
    assert (data / "reports/evaluation.json").read_bytes() == report
    assert len(num_tasks) > 8


def test_a_failed_gate_is_an_error_that_names_itself(data: Path) -> None:
    tasks.enforce.fn([], data)
    with pytest.raises(GateFailed, match=r"1 of the gates in params.yaml \(evaluation.gates\) failed:\n  max_kl: "):
        tasks.enforce.fn(["max_kl: dpo is 2.50 nats per answer from sft, more than 2"], data)


def test_answers_without_gold_reward_are_still_compared(tmp_path: Path) -> None:
    data = small.write_project(tmp_path)
    path = data / "tokens/prompts/test/metadata.json"
    write_json(path, [{"text": fact["text"]} for fact in read_json(path)])
    small.write_comparison(data)
    gates = {"min_gold_gain": 2, "min_exact_match": 0.9}
    params = Params.model_validate({**SMALL, "metrics": {**SMALL["metrics"], "gold": {}}, "gates": gates})
    assert evaluate(data, params) == []
    body = read_json(data / "reports/evaluation.json")
    assert set(body["kl"]) == {"sft", "ppo", "dpo"}
    assert set(body["win_rate"]["ppo_vs_sft"]) == {"reward"}
    assert "gold" not in body
    assert (body["gates_checked"], body["gates_failed"], body["gates_not_applicable"]) == (1, 0, 2)
    assert [note for note in body["notes"] if note.startswith("gate that does not apply: min_gold_gain: gold was not")]
    assert "not measured: accuracy, bleu, gold, because no test prompt has a right answer" in " ".join(body["notes"])
    strict = Params.model_validate({**params.model_dump(), "gates": {**gates, "when_not_measured": "fail"}})
    failed = evaluate(data, strict)
    assert [sentence.split(":")[0] for sentence in failed] == ["min_exact_match", "min_gold_gain"]
    assert "say one" in (data / "reports/evaluation/report.html").read_text(encoding="utf-8")


def test_documents_alone_are_evaluated(tmp_path: Path) -> None:
    """Without conversations, every stage but pretrain is left out: perplexity is measured, the rest has a reason."""
    data = small.write_project(tmp_path)
    for name in ("sft", "reward", "ppo", "dpo"):
        models.write_left_out(data / "models" / name, "the data has no conversations", None)
    write_prompts(data / "tokens/prompts/test", [], [], small.VOCAB_SIZE)
    small.write_comparison(data)
    gates = {"min_exact_match": 0.9, "max_kl": 2, "min_unigram_ratio": 0.001}
    assert evaluate(data, Params.model_validate({**SMALL, "gates": gates})) == []
    body = read_json(data / "reports/evaluation.json")
    assert body["perplexity"]["n"] == 3
    assert body["gates_not_applicable"] == 2
    assert "not measured: accuracy, bleu, gold, kl" in " ".join(body["notes"])
    assert (data / "reports/evaluation/report.html").is_file()


def test_policies_are_the_stages_of_dvc_yaml_that_answer_prompts(tmp_path: Path) -> None:
    data = small.write_project(tmp_path)
    inputs = tasks.open_inputs.fn(Params(), data, [*STAGES, PipelineStage("dpo2", "dpo", True, 9)])
    assert inputs.policies == ("sft", "ppo", "dpo", "dpo2")
    assert tasks.open_inputs.fn(Params(policies=("dpo",)), data, STAGES).policies == ("sft", "dpo")


def test_a_stage_that_the_project_does_not_have_is_left_out(tmp_path: Path) -> None:
    inputs = EvaluationInputs(tmp_path, Params(policies=("sft", "dpo")))
    assert inputs.left_out("pretrain") == "it is no stage of this project"
    assert inputs.left_out("dpo") is None, "the missing model of a policy is an error"


def test_params_choose_metrics_by_their_file_names() -> None:
    metrics = dict(Params.model_validate({"metrics": {"kl": None, "bleu": {"num_resamples": 20}}}).active_metrics())
    assert set(metrics) == {"kl", "bleu"}
    assert metrics["bleu"].model_dump() == {"num_resamples": 20}
    by_default = [name for name in catalog.names(tasks.METRICS) if name not in tasks.NOT_BY_DEFAULT]
    assert list(dict(Params().active_metrics())) == by_default
    with pytest.raises(ValidationError):
        Params.model_validate({"metrics": {"blue": {}}})


def test_own_sets_take_part_in_report_gates_and_items(tmp_path: Path) -> None:
    data, rows = small.write_project(tmp_path / "data"), tmp_path / "quiz.jsonl"
    rows.write_text('{"q": "say one", "c": ["one", "two"], "g": 0}\n' * 3, encoding="utf-8")
    quiz = {"type": "multiple_choice", "paths": str(rows), "fields": {"question": "q", "choices": "c", "gold": "g"}}
    gates = {"scores": {"benchmarks.quiz.accuracy.*": {"min": -1}, "benchmarks.quiz.bits_per_byte.sft": {"max": 0}}}
    params = {"metrics": {"accuracy": {}}, "benchmarks": {"quiz": quiz}, "gates": gates, "num_prompts": 4}
    (failed,) = evaluate(data, Params.model_validate(params))
    assert failed.startswith("benchmarks.quiz.bits_per_byte.sft: ")
    body = read_json(data / "reports/evaluation.json")
    scores = body["benchmarks"]["quiz"]
    assert set(scores["accuracy"]) == {"pretrain", "sft", "ppo", "dpo"}
    assert scores["accuracy"]["sft"]["n"] == 3
    assert scores["about"]["files"][str(rows)] == hashlib.sha256(rows.read_bytes()).hexdigest()
    assert (body["gates_checked"], body["gates_failed"]) == (3, 1)
    table = parquet.read_table(data / "reports/evaluation/items/benchmarks.quiz.parquet")
    assert table.num_rows == 4 * 3 * 3, "models x items x (two accuracies, bits per byte)"
    assert table.column_names == ["score_name", "model", "id", "group", "prompt", "answer", "score"]
    exact_match = parquet.read_table(data / "reports/evaluation/items/accuracy.parquet").to_pylist()
    of_sft = [row["score"] for row in exact_match if row["model"] == "sft"]
    assert sum(of_sft) / len(of_sft) == body["exact_match"]["sft"]["value"]
    assert "quiz" in (data / "reports/evaluation/report.html").read_text(encoding="utf-8")


def test_a_set_that_cannot_be_read_stops_before_anything_is_measured(tmp_path: Path) -> None:
    quiz = {"type": "cloze", "paths": str(tmp_path / "no.jsonl"), "fields": {"continuation": "c"}}
    with pytest.raises(BadInput, match=r"no.jsonl does not exist"):
        tasks.load_benchmarks.fn(Params.model_validate({"benchmarks": {"quiz": quiz}}))
