"""Each type of set, measured on tiny models, against plain arithmetic."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.evaluation.benchmarks import choices, texts
from tasks.evaluation.benchmarks.examples import load
from tasks.evaluation.benchmarks.measuring import measure
from tasks.evaluation.benchmarks.params import BenchmarkSet
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, SamplingParams
from tests.evaluation import small


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> EvaluationInputs:
    data = small.write_project(tmp_path_factory.mktemp("data"))
    return EvaluationInputs(data, SamplingParams(policies=("sft",), batch_size=3))


def run(
    inputs: EvaluationInputs, folder: Path, rows: list[dict[str, Any]], **settings: Any
) -> tuple[Any, MetricResult]:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    params = BenchmarkSet.model_validate({"paths": str(path), "models": ["sft"], **settings})
    result = measure("quiz", params, inputs, load(params))
    return result.scores["benchmarks"]["quiz"], result


def log_p(inputs: EvaluationInputs, context: str, continuation: str) -> float:
    ids = [small.DOCUMENT, *small.encode(context), *small.encode(continuation)]
    num = len(small.encode(continuation))
    with torch.no_grad():
        logits = inputs.model("sft")(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(len(ids) - num, len(ids)))


def test_choices_are_compared_by_likelihood(inputs: EvaluationInputs, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"q": f"say {word}", "c": list(small.WORDS[:4]), "g": index % 4} for index, word in enumerate(small.WORDS)
    ]
    fields = {"question": "q", "choices": "c", "gold": "g"}
    normalizations = ["raw", "token", "byte", "unconditional"]
    scores, result = run(
        inputs, tmp_path, rows, type="multiple_choice", fields=fields, normalizations=normalizations,
        unconditional_prompt="Answer:",
    )  # fmt: skip
    totals = [[log_p(inputs, row["q"], f" {one}") for one in row["c"]] for row in rows]
    bare = [log_p(inputs, "Answer:", f" {one}") for one in small.WORDS[:4]]
    by_normalization = {
        "accuracy": totals,
        "accuracy_token": [[t / (len(c) + 1) for t, c in zip(own, small.WORDS, strict=False)] for own in totals],
        "accuracy_byte": [[t / len(c) for t, c in zip(own, small.WORDS, strict=False)] for own in totals],
        "accuracy_unconditional": [[t - b for t, b in zip(own, bare, strict=True)] for own in totals],
    }
    for key, values in by_normalization.items():
        right = sum(max(range(4), key=own.__getitem__) == row["g"] for own, row in zip(values, rows, strict=True))
        assert scores[key]["sft"].value == right / 8, key
        assert (scores[key]["sft"].baseline_name, scores[key]["sft"].baseline) == ("chance", 0.25)
    bits = -sum(own[row["g"]] for own, row in zip(totals, rows, strict=True)) / math.log(2)
    num_bytes = sum(len(row["c"][row["g"]]) for row in rows)
    assert scores["bits_per_byte"]["sft"].value == pytest.approx(bits / num_bytes, abs=1e-4)
    assert scores["bits_per_byte"]["sft"].n == 8
    own_items = [item for item in result.items if item.score_name == "benchmarks.quiz.accuracy"]
    assert sum(item.score for item in own_items) == 8 * scores["accuracy"]["sft"].value
    assert own_items[0].prompt == "say one"
    assert scores["about"]["items"] == 8
    assert scores["about"]["params"]["fields"] == fields


def test_minimal_pairs_and_cloze(inputs: EvaluationInputs, tmp_path: Path) -> None:
    rows = [{"good": f"it is {word}", "bad": f"is it {word}", "kind": "order"} for word in small.WORDS]
    scores, _ = run(inputs, tmp_path, rows, type="minimal_pairs", fields={"good": "good", "bad": "bad"})
    right = sum(log_p(inputs, "", row["good"]) > log_p(inputs, "", row["bad"]) for row in rows)
    assert (scores["accuracy"]["sft"].value, scores["accuracy"]["sft"].baseline) == (right / 8, 0.5)
    scores, _ = run(inputs, tmp_path, rows, type="cloze", fields={"context": "good", "continuation": "kind"})
    assert scores["accuracy"]["sft"].value == 0, "no random model says ' order'"
    assert scores["accuracy"]["sft"].baseline == 1, "the most frequent continuation"
    bits = -sum(log_p(inputs, row["good"], " order") for row in rows) / math.log(2) / (8 * 5)
    assert scores["bits_per_byte"]["sft"].value == pytest.approx(bits, abs=1e-4)


def test_perplexity_equals_a_plain_loop(inputs: EvaluationInputs, tmp_path: Path) -> None:
    """A window of 8 tokens that moves by 5; every token is predicted once."""
    rows = [{"text": "a plain text of words"}, {"text": "is a rose"}]
    scores, _ = run(inputs, tmp_path, rows, type="perplexity", fields={"text": "text"}, window=8, stride=5)
    nats, num_tokens = 0.0, 0
    for row in rows:
        ids = [small.DOCUMENT, *small.encode(row["text"])]
        num_tokens += len(ids) - 1
        place = 1
        while place < len(ids):
            end = min(len(ids), place + (8 if place == 1 else 5))
            begin = max(0, end - 1 - 8)
            with torch.no_grad():
                logits = inputs.model("sft")(torch.tensor([ids[begin : end - 1]])).logits[0].log_softmax(-1)
            nats -= sum(float(logits[index - 1 - begin, ids[index]]) for index in range(place, end))
            place = end
    assert scores["perplexity"]["sft"].value == pytest.approx(math.exp(nats / num_tokens), rel=1e-5)
    assert scores["word_perplexity"]["sft"].value == pytest.approx(math.exp(nats / 8), rel=1e-5)
    assert scores["byte_perplexity"]["sft"].value == pytest.approx(math.exp(nats / 30), rel=1e-5)


def test_windows_predict_each_token_once() -> None:
    pairs = list(texts.windows(range(10, 23), 1, 5, 5))
    assert [pair.continuation for pair in pairs] == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19], [20, 21, 22]]
    assert [pair.prompt for pair in pairs] == [[1], [14], [19]]


def test_generated_answers_are_extracted_and_scored(inputs: EvaluationInputs, tmp_path: Path) -> None:
    rows = [{"q": f"say {word}", "a": [word, f"the {word}"]} for word in small.WORDS]
    fields = {"prompt": "q", "references": "a"}
    metrics = ["exact_match", "f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    scores, result = run(
        inputs, tmp_path, rows, type="generation", fields=fields, metrics=metrics, max_new_tokens=4, extract="z{9}",
        chat=True,
    )  # fmt: skip
    assert {scores[metric]["sft"].n for metric in (*metrics, "ended")} == {8}
    assert scores["about"]["signatures"]["bleu"].startswith("nrefs:2|case:mixed|eff:no|tok:13a")
    assert scores["exact_match"]["sft"].value == 0
    assert scores["exact_match"]["sft"].baseline == 1 / 8
    assert "`extract` does not match 8 of 8 answers, which count as wrong" in " ".join(result.notes)
    assert result.items[0].prompt == "user: say one"


def test_a_tie_is_divided() -> None:
    assert choices.credit(np.array([-1.0, -1.0, -2.0]), 0) == 0.5
    assert choices.credit(np.array([-1.0, -1.0, -2.0]), 2) == 0


def test_the_batch_size_changes_nothing(inputs: EvaluationInputs, tmp_path: Path) -> None:
    rows = [{"q": "say " * (1 + index), "c": list(small.WORDS[:4]), "g": 0} for index in range(9)]
    settings: dict[str, Any] = {"type": "multiple_choice", "fields": {"question": "q", "choices": "c", "gold": "g"}}
    values = []
    for batch_size in (1, 4, 100):
        params = SamplingParams(policies=("sft",), batch_size=batch_size)
        _, result = run(EvaluationInputs(inputs.data, params), tmp_path, rows, **settings)
        values.append([item.score for item in result.items])
    assert values[1] == pytest.approx(values[0], abs=1e-5)
    assert values[2] == pytest.approx(values[0], abs=1e-5)
