"""Pseudo-perplexity of an encoder (Salazar et al. 2020, arXiv:1910.14659): exp(mean nats per token) on test documents.

Each token is masked alone and predicted from all others. One forward pass per token is expensive, so that few tokens
are read. The number must not be compared with the perplexity of a decoder, which sees only the preceding tokens. Other
models are not measured. Intervals: bootstrap over documents; n is the number of documents.
"""

import math

import numpy as np
from pydantic import Field

from tasks.evaluation import intervals
from tasks.evaluation.inputs import ChunkParams, EvaluationInputs, MetricResult, NotMeasured

SCORES = ("pseudo_perplexity",)


class Params(ChunkParams, frozen=True):
    """Pseudo-perplexity of an encoder."""

    max_tokens: int = Field(
        4_000, ge=1, description="Maximum number of test tokens that are read, in evenly spaced chunks."
    )
    batch_size: int = Field(64, ge=1, description="Number of texts per forward pass.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """pseudo_perplexity."""
    objective = inputs.objective(params.model)
    if objective != "masked":
        raise NotMeasured(f"{params.model} does not predict masked tokens, because its objective is {objective}")
    from tasks.evaluation.denoising import IGNORED, document_items, predict_masked, split_documents

    model, tokenizer = inputs.load_pretrained(params.model)
    chunks = split_documents(inputs.stream(), params.max_length, params.max_tokens)
    if not chunks:
        raise NotMeasured("the split 'test' contains no document")
    sums = dict.fromkeys(sorted({chunk.document for chunk in chunks}), (0.0, 0))  # document -> nats, tokens
    for chunk in chunks:
        is_masked = np.eye(len(chunk.ids), dtype=bool)[1:]  # one row for each token except the first
        masked_ids = list(np.where(is_masked, tokenizer.mask_token_id, chunk.ids))
        labels = list(np.where(is_masked, chunk.ids, IGNORED))
        predictions = predict_masked(model, masked_ids, labels, tokenizer.pad_token_id, params.batch_size)
        nats, num_tokens = sums[chunk.document]
        sums[chunk.document] = nats + sum(float(p.nats.sum()) for p in predictions), num_tokens + len(is_masked)
    nats_by_document, tokens_by_document = np.array(list(sums.values())).T
    mean = intervals.ratio(nats_by_document, tokens_by_document)
    items = document_items("pseudo_perplexity", params.model, tokenizer, chunks, nats_by_document / tokens_by_document)
    return MetricResult({"pseudo_perplexity": intervals.transform(mean, math.exp)}, items=items)
