"""A table of test prompts with the greedy answers of the models in adjacent columns, for people to read."""

from typing import Any

from pydantic import BaseModel, Field

from tasks.evaluation.inputs import EvaluationInputs, MetricResult, Prompt, evenly_spaced

SCORES: tuple[str, ...] = ()


class Params(BaseModel, frozen=True, extra="forbid"):
    """Sample answers, for people to read."""

    num_prompts: int = Field(
        6, ge=0, description="Number of prompts with a verifiable answer, and number of open prompts."
    )
    extra_models: tuple[str, ...] = Field(
        ("pretrain",), description="Names of stages whose models answer in addition to the policies."
    )


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """A table with prompt, expected answer and one column per model."""
    prompts = evenly_spaced(inputs.prompts, params.num_prompts)
    if inputs.verifiable:
        prompts += evenly_spaced(inputs.open_prompts, params.num_prompts)
    rows = [_row(prompt) for prompt in prompts]
    extra_models = [name for name in params.extra_models if not inputs.left_out(name)]
    for name in (*extra_models, *inputs.policies) if prompts else ():
        for row, answer in zip(rows, inputs.generate_answers(name, prompts), strict=True):
            row[name] = answer.text + ("" if answer.finished else " …")
    return MetricResult(tables={"samples": rows})


def _row(prompt: Prompt) -> dict[str, Any]:
    return {"prompt": prompt.text, "expected": str(prompt.metadata.get("answer", prompt.metadata.get("reference", "")))}
