"""Measure a test set of your own: load the examples, let each model answer, and return scores and items."""

from collections.abc import Sequence
from typing import Any

from tasks.evaluation.benchmarks import choices, generations, texts
from tasks.evaluation.benchmarks.examples import Loaded
from tasks.evaluation.benchmarks.params import BenchmarkSet
from tasks.evaluation.benchmarks.rows import digests
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured

KEY = "benchmarks"  # of the report
TYPES: dict[str, Any] = {
    "multiple_choice": choices, "cloze": choices, "minimal_pairs": choices, "generation": generations,
    "perplexity": texts,
}  # fmt: skip


def measure(name: str, params: BenchmarkSet, inputs: EvaluationInputs, loaded: Loaded) -> MetricResult:
    """benchmarks.<name>: each score by model, and `about`: how the set was read and asked.

    Raises NotMeasured if there is no causal model.
    """
    models = causal_models(params.models, inputs)
    result = MetricResult()
    scores: dict[str, Any] = {}
    signatures: dict[str, str] = {}
    for model in models:
        of_model = TYPES[params.type].measure(name, model, loaded.examples, params, inputs, result)
        signatures |= of_model.pop("signatures", {})
        for score_name, score in of_model.items():
            scores.setdefault(score_name, {})[model] = score
    result.scores[KEY] = {
        name: {**scores, "about": _about(params, loaded) | ({"signatures": signatures} if signatures else {})}
    }
    result.notes += [f"left out: benchmark {name}, {line}" for line in loaded.descriptions()]
    return result


def causal_models(names: Sequence[str], inputs: EvaluationInputs) -> list[str]:
    """The models that were asked for, or pretrain and all policies; those that predict the next token.

    Raises NotMeasured if there is none.
    """
    named = names or ("pretrain", *inputs.policies)
    present = [name for name in dict.fromkeys(named) if (inputs.data / "models" / name).is_dir()]
    models = [name for name in present if not inputs.left_out(name) and inputs.objective(name) == "causal"]
    if not models:
        raise NotMeasured(f"there is no model that predicts the next token among {', '.join(named)}")
    return models


def _about(params: BenchmarkSet, loaded: Loaded) -> dict[str, Any]:
    """What the numbers depend on besides the model."""
    stated = params.model_dump(mode="json", exclude_defaults=True)
    first = loaded.examples[0]
    return {
        "params": {**stated, "type": params.type},
        "prompt_template": params.prompt or "(the question, context or prompt itself)",
        "first_prompt": first.contexts[0],
        "files": digests(params),
        "rows": loaded.num_rows,
        "items": len(loaded.examples),
        "items_not_used": loaded.num_examples - len(loaded.examples),
        "rows_left_out": loaded.unusable.total(),
        "repeated_items": loaded.num_repeated,
    }
