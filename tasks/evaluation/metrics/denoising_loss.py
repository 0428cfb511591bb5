"""How well an encoder-decoder puts back what was cut out of held-out documents, in nats per token it is asked for.

Spans are cut out as in training, the same ones every time; sentinels and the end token are asked for as well. Where the
model is no encoder-decoder, nothing is measured. Intervals: bootstrap over documents; n counts documents.
"""

import numpy as np
from pydantic import BaseModel, Field

from tasks.corruption import SpanCorruption, corrupt_spans, draw_spans, sentinel_ids
from tasks.errors import BadParams
from tasks.evaluation import intervals
from tasks.evaluation.evidence import Evidence, Finding


class Params(BaseModel, frozen=True, extra="forbid"):
    """How much of the test stream is read, and how spans are cut out."""

    model: str = Field("pretrain", description="Folder of data/models")
    max_length: int = Field(256, ge=2, description="Tokens that are read at once")
    max_tokens: int = Field(100_000, ge=1, description="Of the test stream; more are thinned to evenly spaced pieces")
    span_corruption: SpanCorruption = Field(default_factory=lambda: SpanCorruption.model_validate({}))
    batch_size: int = Field(16, ge=1)
    seed: int = Field(0, ge=0)


def measure(evidence: Evidence, params: Params) -> Finding:
    """denoising_loss and denoising_accuracy."""
    if evidence.objective(params.model) != "span":
        return Finding()
    from tasks.evaluation.restoring import by_document, guess_cut, pieces

    model, tokenizer = evidence.pretrained(params.model)
    marks, needed = sentinel_ids(tokenizer), params.span_corruption.sizes(params.max_length)[1]
    if len(marks) < needed:
        raise BadParams(
            f"evaluation.metrics.denoising_loss: {needed} spans in {params.max_length} tokens, but {params.model} has "
            f"{len(marks)} sentinels; set max_length to pretrain's sequence_length and span_corruption to pretrain's"
        )
    found = pieces(evidence.stream(), params.max_length, params.max_tokens)
    if not found:
        return Finding(notes=["no document fell into the split 'test': the denoising loss was not measured"])
    riddles = []
    for place, piece in enumerate(found):
        generator = np.random.default_rng((params.seed, place))
        riddles.append(corrupt_spans(piece.ids, draw_spans(len(piece.ids), params.span_corruption, generator), marks))
    guesses = list(guess_cut(model, riddles, tokenizer.eos_token_id, tokenizer.pad_token_id, params.batch_size))
    asked, right, nats = by_document(found, guesses)
    return Finding(
        {"denoising_loss": intervals.ratio(nats, asked), "denoising_accuracy": intervals.ratio(right, asked)}
    )
