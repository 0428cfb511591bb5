"""Metrics of the answers themselves, on fixed answers, by hand."""

from pathlib import Path

import pytest
from transformers import LlamaForSequenceClassification

from tasks.errors import BadInput
from tasks.evaluation.inputs import EvaluationInputs, NotMeasured, SamplingParams
from tasks.evaluation.metrics import answer_form, classifiers, diversity, memorization, speed
from tests.evaluation import small
from tests.evaluation.small import FixedAnswers

PROMPTS = [{"text": "say one", "answer": "one"}, {"text": "说一", "reference": "一"}, {"text": "你好"}]
ANSWERS = {"sft": ["one", "one", "你好。"], "ppo": ["一 一 一 一 一", "一", "?"]}


@pytest.fixture
def inputs() -> FixedAnswers:
    return FixedAnswers(PROMPTS, ANSWERS, ANSWERS)


def test_form_of_answers(inputs: FixedAnswers) -> None:
    result = answer_form.measure(inputs, answer_form.Params())
    in_language = result.scores["answer_in_language"]
    assert (in_language["sft"].value, in_language["sft"].n) == (pytest.approx(2 / 3, abs=1e-6), 3)
    assert (in_language["ppo"].value, in_language["ppo"].n) == (0.5, 2), "'?' has no letters"
    assert in_language["sft"].baseline == 1
    assert result.scores["answer_characters"]["sft"].value == 3
    assert result.scores["answer_ended"]["ppo"].value == 1
    assert {item.score_name for item in result.items} == {"answer_ended", "answer_in_language", "answer_characters"}


def test_diversity(inputs: FixedAnswers) -> None:
    """Five equal tokens: 1 of 5 distinct, 1 of 4 pairs, and the second of two 4-grams is a repetition."""
    assert diversity.distinct("一 一 一 一 一", 1) == 0.2
    assert diversity.distinct("", 1) is None
    scores = diversity.measure(inputs, diversity.Params()).scores
    assert scores["distinct_2"]["ppo"].value == 0.25
    assert (scores["repetition"]["ppo"].value, scores["repetition"]["ppo"].n) == (0.5, 1)
    assert diversity.self_bleu(["a b c d e", "a b c d e"]) == [pytest.approx(100), pytest.approx(100)]
    assert diversity.self_bleu(["alone"]) == []


def test_classifiers_need_a_file_and_a_class(inputs: FixedAnswers, tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="names no classifier"):
        classifiers.measure(inputs, classifiers.Params())
    config = small.shape()
    config.num_labels = 2
    config.id2label, config.label2id = {0: "fine", 1: "toxic"}, {"fine": 0, "toxic": 1}
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    small.tokenizer().save_pretrained(tmp_path)
    params = classifiers.Params.model_validate({"classifiers": {"toxic": {"model": str(tmp_path), "label": "toxic"}}})
    score = classifiers.measure(inputs, params).scores["classified"]["toxic"]["sft"]
    assert score.n == 3
    assert score.baseline_name == "reference answers"
    wrong = classifiers.Params.model_validate({"classifiers": {"toxic": {"model": str(tmp_path), "label": "rude"}}})
    with pytest.raises(BadInput, match="has no class 'rude'; available: fine, toxic"):
        classifiers.measure(inputs, wrong)


def test_memorization_and_speed_of_tiny_models(tmp_path: Path) -> None:
    data = small.write_project(tmp_path)
    inputs = EvaluationInputs(data, SamplingParams(policies=("sft",), num_prompts=4))
    result = memorization.measure(inputs, memorization.Params(prefix_tokens=4, continuation_tokens=3))
    assert (result.scores["memorized"]["pretrain"].value, result.scores["memorized"]["pretrain"].n) == (0, 2)
    assert result.scores["memorized"]["pretrain"].baseline == 0
    with pytest.raises(NotMeasured, match="no training document has 200 tokens"):
        memorization.measure(inputs, memorization.Params(prefix_tokens=100, continuation_tokens=100))
    scores = speed.measure(inputs, speed.Params(num_prompts=3, max_new_tokens=4)).scores
    assert scores["first_token_milliseconds"]["sft"].value > 0
    assert scores["tokens_per_second"]["sft"].value > 0
