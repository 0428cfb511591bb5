"""Tasks of lm-evaluation-harness by name, scored by our own scorer: a question's shared prompt is computed once.

It needs the extra `lm-eval`. A task is read from the harness or from YAML files of your own (`include_path`), which may
name local data files. Every metric of a task becomes a score; intervals: exact for shares, bootstrap for others.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured
from tasks.evaluation.items import Item
from tasks.reports import Score

SCORES = ("lm_eval.*.*.MODEL", "lm_eval.*.about.*")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Tasks of lm-evaluation-harness."""

    tasks: tuple[str, ...] = Field((), description="Names of tasks or groups of the harness, such as arc_easy.")
    include_path: str | None = Field(None, description="Folder with YAML files of further tasks.")
    num_fewshot: int | None = Field(None, ge=0, description="Number of few-shot examples; null: as each task says.")
    limit: int | None = Field(None, ge=1, description="Maximum number of items of each task; null: all of them.")
    models: tuple[str, ...] = Field(
        (), description="Names of the stages whose models are measured. Empty: pretrain and all policies."
    )


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """lm_eval: task -> metric -> score by model; of each task also the version and the prompt template."""
    from tasks.evaluation.benchmarks.measuring import causal_models
    from tasks.evaluation.harness import evaluate

    if not params.tasks:
        raise NotMeasured("evaluation.metrics.lm_eval names no task")
    result = MetricResult({"lm_eval": {}})
    for name in causal_models(params.models, inputs):
        model, tokenizer = inputs.model_and_tokenizer(name)
        results = evaluate(
            model, tokenizer, params.tasks, inputs.params.batch_size, params.include_path, params.num_fewshot,
            params.limit,
        )  # fmt: skip
        for task, samples in results["samples"].items():
            by_task = result.scores["lm_eval"].setdefault(task, {"about": _about(results, task)})
            for metric, score in _scores(task, name, samples, results["results"][task], result):
                by_task.setdefault(metric, {})[name] = score
    return result


def _scores(
    task: str, model: str, samples: list[dict[str, Any]], aggregated: Mapping[str, Any], result: MetricResult
) -> Iterator[tuple[str, Score]]:
    """(metric, score) of a task. The value is that of the harness; the interval is that of the items."""
    for key, value in aggregated.items():
        metric, _, filter_name = key.partition(",")
        if not filter_name or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        own = [sample for sample in samples if sample.get("filter", filter_name) == filter_name and metric in sample]
        values = [_number(sample[metric]) for sample in own]
        if not own or None in values:
            yield metric, intervals.rounded_score(float(value), float(value), float(value), len(own))
            continue
        numbers = np.array(values, np.float64)
        score = _interval(own, metric, numbers, float(value))
        num_choices = len(own[0].get("arguments", ()))
        if metric in ("acc", "acc_norm") and num_choices > 1:
            score = score.compared_with("chance", float(np.mean([1 / len(sample["arguments"]) for sample in own])))
        result.items += [
            Item(
                f"lm_eval.{task}.{metric}", model, str(sample.get("doc_hash", sample["doc_id"]))[:16], task,
                _prompt(sample), str(sample.get("filtered_resps", ""))[:2000], float(number),
            )
            for sample, number in zip(own, numbers, strict=True)
        ]  # fmt: skip
        yield metric, score


def _interval(samples: list[dict[str, Any]], metric: str, numbers: Any, value: float) -> Score:
    """The value of the harness with the interval of its items, if their mean (or ratio) is that value."""
    first = samples[0][metric]
    if isinstance(first, tuple | list) and len(first) == 2:
        score = intervals.ratio([-sample[metric][0] for sample in samples], [sample[metric][1] for sample in samples])
        is_perplexity = "perplexity" in metric
        score = intervals.transform(score, lambda nats: float(np.exp(nats) if is_perplexity else nats / np.log(2)))
    elif np.isin(numbers, (0.0, 1.0)).all():
        score = Score.of_share(float(numbers.sum()), len(numbers))
    else:
        score = intervals.mean(numbers)
    if abs(score.value - value) > 1e-4 * max(1.0, abs(value)):  # the harness aggregates in another way
        return intervals.rounded_score(value, value, value, len(samples))
    return score


def _number(value: Any) -> float | None:
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(one, int | float) for one in value):
        return float(-value[0] / value[1]) if value[1] else None
    return float(value) if isinstance(value, int | float) else None


def _prompt(sample: Mapping[str, Any]) -> str:
    arguments = sample.get("arguments")
    return str(arguments[0][0]) if isinstance(arguments, list | tuple) and arguments else str(sample.get("doc", ""))


def _about(results: Mapping[str, Any], task: str) -> dict[str, Any]:
    config = results.get("configs", {}).get(task, {})
    return {
        "version": str(results.get("versions", {}).get(task, "")),
        "prompt_template": str(config.get("doc_to_text", "")),
        "num_fewshot": int(config.get("num_fewshot") or 0),
    }
