"""How well an encoder-decoder predicts the corrupted spans of test documents: nats per token, and accuracy.

Spans are corrupted as in pretraining, by a fixed seed; the targets include sentinels and the end token. Other models
are not measured. Intervals: bootstrap over documents; n is the number of documents.
"""

import numpy as np
from pydantic import Field

from tasks.corruption import SpanCorruption, corrupt_spans, draw_spans, sentinel_ids
from tasks.errors import BadParams
from tasks.evaluation import intervals
from tasks.evaluation.inputs import ChunkParams, EvaluationInputs, MetricResult, NotMeasured

SCORES = ("denoising_loss", "denoising_accuracy")


class Params(ChunkParams, frozen=True):
    """Loss of an encoder-decoder on corrupted spans."""

    span_corruption: SpanCorruption = Field(
        default_factory=lambda: SpanCorruption.model_validate({}),
        description="How spans are corrupted; it should equal pretrain.span_corruption.",
    )
    batch_size: int = Field(16, ge=1, description="Number of texts per forward pass.")
    seed: int = Field(0, ge=0, description="Seed of the random numbers that choose the spans.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """denoising_loss and denoising_accuracy. Raises BadParams if the model has too few sentinels."""
    objective = inputs.objective(params.model)
    if objective != "span":
        raise NotMeasured(f"{params.model} does not predict corrupted spans, because its objective is {objective}")
    from tasks.evaluation.denoising import document_items, predict_spans, split_documents, sum_by_document

    model, tokenizer = inputs.load_pretrained(params.model)
    sentinels, num_needed = sentinel_ids(tokenizer), params.span_corruption.sizes(params.max_length)[1]
    if len(sentinels) < num_needed:
        raise BadParams(
            f"evaluation.metrics.denoising_loss: a text of {params.max_length} tokens has {num_needed} spans, but "
            f"{params.model} has only {len(sentinels)} sentinels; set max_length to the sequence_length of "
            f"{params.model}, and span_corruption to its span_corruption"
        )
    chunks = split_documents(inputs.stream(), params.max_length, params.max_tokens)
    if not chunks:
        raise NotMeasured("the split 'test' contains no document")
    examples = []
    for index, chunk in enumerate(chunks):
        # A generator per chunk keeps the spans of a chunk the same whatever other chunks are read.
        generator = np.random.default_rng((params.seed, index))
        is_corrupted = draw_spans(len(chunk.ids), params.span_corruption, generator)
        examples.append(corrupt_spans(chunk.ids, is_corrupted, sentinels))
    end_id, pad_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    predictions = list(predict_spans(model, examples, end_id, pad_id, params.batch_size))
    num_predicted, num_correct, nats = sum_by_document(chunks, predictions)
    num_tokens = np.maximum(1, num_predicted)  # a short document may have none
    items = document_items("denoising_loss", params.model, tokenizer, chunks, nats / num_tokens)
    items += document_items("denoising_accuracy", params.model, tokenizer, chunks, num_correct / num_tokens)
    return MetricResult(
        {
            "denoising_loss": intervals.ratio(nats, num_predicted),
            "denoising_accuracy": intervals.ratio(num_correct, num_predicted),
        },
        items=items,
    )
