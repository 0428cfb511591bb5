"""How well an encoder predicts masked tokens of test documents: accuracy, and nats per masked token.

Tokens are masked as in pretraining, by a fixed seed. Other models are not measured. Intervals: bootstrap over
documents; n is the number of documents.
"""

import numpy as np
from pydantic import Field

from tasks.corruption import Masking, mask_tokens
from tasks.evaluation import intervals
from tasks.evaluation.inputs import ChunkParams, EvaluationInputs, MetricResult, NotMeasured

SCORES = ("masked_accuracy", "masked_loss")


class Params(ChunkParams, frozen=True):
    """Accuracy and loss of an encoder on masked tokens."""

    masking: Masking = Field(
        default_factory=lambda: Masking.model_validate({}),
        description="How tokens are masked; it should equal pretrain.masking.",
    )
    batch_size: int = Field(16, ge=1, description="Number of texts per forward pass.")
    seed: int = Field(0, ge=0, description="Seed of the random numbers that choose the tokens.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """masked_accuracy and masked_loss."""
    objective = inputs.objective(params.model)
    if objective != "masked":
        raise NotMeasured(f"{params.model} does not predict masked tokens, because its objective is {objective}")
    from tasks.evaluation.denoising import IGNORED, document_items, predict_masked, split_documents, sum_by_document

    model, tokenizer = inputs.load_pretrained(params.model)
    chunks = split_documents(inputs.stream(), params.max_length, params.max_tokens)
    if not chunks:
        raise NotMeasured("the split 'test' contains no document")
    masked_ids, labels = [], []
    for index, chunk in enumerate(chunks):
        maskable = np.arange(len(chunk.ids)) > 0  # the first token may be the marker of a document's beginning
        generator = np.random.default_rng((params.seed, index))
        ids, is_predicted = mask_tokens(
            chunk.ids, maskable, params.masking, tokenizer.mask_token_id, len(tokenizer), generator
        )
        masked_ids.append(ids)
        labels.append(np.where(is_predicted, chunk.ids, IGNORED))
    predictions = list(predict_masked(model, masked_ids, labels, tokenizer.pad_token_id, params.batch_size))
    num_predicted, num_correct, nats = sum_by_document(chunks, predictions)
    num_tokens = np.maximum(1, num_predicted)  # a short document may have none
    items = document_items("masked_loss", params.model, tokenizer, chunks, nats / num_tokens)
    items += document_items("masked_accuracy", params.model, tokenizer, chunks, num_correct / num_tokens)
    return MetricResult(
        {
            "masked_accuracy": intervals.ratio(num_correct, num_predicted),
            "masked_loss": intervals.ratio(nats, num_predicted),
        },
        items=items,
    )
