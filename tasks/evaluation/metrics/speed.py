"""How fast a model answers one user: milliseconds to the first token, and tokens per second after it.

Prompts are answered one at a time. These numbers depend on the machine and differ from run to run, so that params.yaml
has to name this metric. Intervals: bootstrap over prompts.
"""

import time
from collections.abc import Sequence

from pydantic import BaseModel, Field

from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, evenly_spaced

SCORES = ("first_token_milliseconds.MODEL", "tokens_per_second.MODEL")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Time to the first token, and tokens per second."""

    num_prompts: int = Field(16, ge=2, description="Number of prompts that are answered, after one to warm up.")
    max_new_tokens: int = Field(32, ge=2, description="Maximum number of tokens of an answer.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """first_token_milliseconds and tokens_per_second by model."""
    result = MetricResult({"first_token_milliseconds": {}, "tokens_per_second": {}})
    prompts = evenly_spaced(inputs.prompts, params.num_prompts)
    for name in inputs.policies:
        _token_times(inputs, name, prompts[0].ids, params.max_new_tokens)
        times = [_token_times(inputs, name, prompt.ids, params.max_new_tokens) for prompt in prompts]
        first = [1000 * own[0] for own in times]
        result.scores["first_token_milliseconds"][name] = intervals.mean(first)
        rest = [(len(own) - 1, own[-1] - own[0]) for own in times if len(own) > 1]
        if rest:
            numbers, seconds = zip(*rest, strict=True)
            result.scores["tokens_per_second"][name] = intervals.ratio(numbers, seconds)
        result.items += [
            prompt.item("first_token_milliseconds", name, "", value)
            for prompt, value in zip(prompts, first, strict=True)
        ]
    return result


def _token_times(inputs: EvaluationInputs, name: str, ids: Sequence[int], max_new_tokens: int) -> list[float]:
    """Seconds from the start to each token of the greedy answer."""
    from tasks.chat_templates import end_ids
    from tasks.generation import generate

    model, tokenizer = inputs.model_and_tokenizer(name)
    start, times = time.perf_counter(), list[float]()
    generate(
        model, [ids], max_new_tokens=max_new_tokens, end_ids=end_ids(tokenizer, model),
        pad_id=tokenizer.pad_token_id or 0, temperature=0.0,
        on_token=lambda row, token: times.append(time.perf_counter() - start),
    )  # fmt: skip
    return times
