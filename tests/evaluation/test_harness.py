"""Tasks of lm-evaluation-harness; those that need the extra lm-eval are skipped without it."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import BadInput
from tasks.evaluation import harness
from tasks.evaluation.inputs import EvaluationInputs, NotMeasured, SamplingParams
from tasks.evaluation.metrics import lm_eval
from tests.evaluation import small

ROWS = [{"q": f"say {word}", "c": list(small.WORDS[:4]), "g": index % 4} for index, word in enumerate(small.WORDS)]


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(BadInput, match=r"pip install '.\[lm-eval\]' -c constraints.txt"):
        harness.evaluate(None, None, ["arc_easy"], 1)


def test_no_task_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="names no task"):
        lm_eval.measure(EvaluationInputs(tmp_path, SamplingParams()), lm_eval.Params())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_task_of_a_yaml_file_is_scored_by_our_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = small.write_project(tmp_path / "data")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    task: dict[str, Any] = {
        "task": "own_quiz", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{c}}",
        "doc_to_target": "g", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "own_quiz.yaml").write_text(json.dumps(task), encoding="utf-8")
    inputs = EvaluationInputs(data, SamplingParams(policies=("sft",), batch_size=3))
    params = lm_eval.Params(tasks=("own_quiz",), include_path=str(tmp_path), models=("sft",))
    result = lm_eval.measure(inputs, params)
    score = result.scores["lm_eval"]["own_quiz"]["acc"]["sft"]
    assert (score.n, score.baseline) == (8, 0.25)
    assert math.isclose(sum(item.score for item in result.items) / 8, score.value)
    assert result.items[0].prompt == "say one"
    with pytest.raises(BadInput, match="has no task 'own_quizz'; did you mean 'own_quiz'"):
        lm_eval.measure(inputs, params.model_copy(update={"tasks": ("own_quizz",)}))
