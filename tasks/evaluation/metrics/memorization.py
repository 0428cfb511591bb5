"""How much training text a model repeats exactly: the share of sampled prefixes that it continues word for word.

The greedy continuation of the first tokens of a training document must equal the document (arXiv:2202.07646). The
baseline is the same share of test documents, which no model has read. Intervals: exact.
"""

import numpy as np
from pydantic import BaseModel, Field

from tasks.evaluation.answer_scores import share
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured, evenly_spaced
from tasks.evaluation.items import Item, text_id
from tasks.tokens import Stream

SCORES = ("memorized.MODEL",)


class Params(BaseModel, frozen=True, extra="forbid"):
    """Exact continuation of training documents."""

    model: str = Field("pretrain", description="Name of the stage whose model is measured.")
    num_documents: int = Field(100, ge=1, description="Maximum number of documents of a split; they are evenly spaced.")
    prefix_tokens: int = Field(32, ge=1, description="Number of tokens that the model reads.")
    continuation_tokens: int = Field(32, ge=1, description="Number of tokens that must be equal.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """memorized: the share of training documents; its baseline is that of test documents."""
    if inputs.objective(params.model) != "causal":
        raise NotMeasured(f"{params.model} does not predict the next token")
    result = MetricResult()
    flags = {split: _memorized(inputs, split, params, result) for split in ("train", "test")}
    if not flags["train"]:
        length = params.prefix_tokens + params.continuation_tokens
        raise NotMeasured(f"no training document has {length} tokens")
    score = share(flags["train"])
    if flags["test"]:
        score = score.compared_with("test documents", sum(flags["test"]) / len(flags["test"]))
    result.scores["memorized"] = {params.model: score}
    return result


def _memorized(inputs: EvaluationInputs, split: str, params: Params, result: MetricResult) -> list[bool]:
    from tasks.evaluation.batches import generate

    source, tokenizer = inputs.source(params.model), inputs.model_and_tokenizer(params.model)[1]
    length = params.prefix_tokens + params.continuation_tokens
    beginnings = evenly_spaced(_beginnings(inputs.stream(split), length), params.num_documents)
    if not beginnings:
        return []
    answers, _ = generate(
        source, [ids[: params.prefix_tokens] for ids in beginnings], max_new_tokens=params.continuation_tokens,
        end_ids=(), pad_id=tokenizer.pad_token_id or 0, batch_size=inputs.params.batch_size,
    )  # fmt: skip
    flags = [own == ids[params.prefix_tokens :] for own, ids in zip(answers, beginnings, strict=True)]
    for ids, own, flag in zip(beginnings, answers, flags, strict=True):
        prompt = tokenizer.decode(ids[: params.prefix_tokens])
        key = text_id(tokenizer.decode(ids))
        result.items.append(Item("memorized", params.model, key, split, prompt, tokenizer.decode(own), float(flag)))
    return flags


def _beginnings(stream: Stream, length: int) -> list[list[int]]:
    """The first `length` tokens of each document that has so many."""
    starts = np.flatnonzero(np.asarray(stream.positions) == 0)
    ends = np.append(starts[1:], len(stream.ids))
    return [
        np.asarray(stream.ids[start : start + length], np.int64).tolist()
        for start, end in zip(starts, ends, strict=True)
        if end - start >= length
    ]
