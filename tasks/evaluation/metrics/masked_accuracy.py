"""How often an encoder guesses a hidden token of held-out documents, and its loss there, in nats per hidden token.

Tokens are hidden as in training, the same ones every time. Where the model is no encoder, nothing is measured.
Intervals: bootstrap over documents; n counts documents.
"""

import numpy as np
from pydantic import BaseModel, Field

from tasks.corruption import Masking, mask_tokens
from tasks.evaluation import intervals
from tasks.evaluation.evidence import Evidence, Finding


class Params(BaseModel, frozen=True, extra="forbid"):
    """How much of the test stream is read, and how tokens are hidden."""

    model: str = Field("pretrain", description="Folder of data/models")
    max_length: int = Field(256, ge=2, description="Tokens that are read at once")
    max_tokens: int = Field(100_000, ge=1, description="Of the test stream; more are thinned to evenly spaced pieces")
    masking: Masking = Field(default_factory=lambda: Masking.model_validate({}))
    batch_size: int = Field(16, ge=1)
    seed: int = Field(0, ge=0)


def measure(evidence: Evidence, params: Params) -> Finding:
    """masked_accuracy and masked_loss."""
    if evidence.objective(params.model) != "masked":
        return Finding()
    from tasks.evaluation.restoring import IGNORED, by_document, guess_hidden, pieces

    model, tokenizer = evidence.pretrained(params.model)
    found = pieces(evidence.stream(), params.max_length, params.max_tokens)
    if not found:
        return Finding(notes=["no document fell into the split 'test': masked accuracy was not measured"])
    given, wanted = [], []
    for place, piece in enumerate(found):
        may_hide = np.arange(len(piece.ids)) > 0
        generator = np.random.default_rng((params.seed, place))
        ids, hidden = mask_tokens(
            piece.ids, may_hide, params.masking, tokenizer.mask_token_id, len(tokenizer), generator
        )
        given.append(ids)
        wanted.append(np.where(hidden, piece.ids, IGNORED))
    guesses = list(guess_hidden(model, given, wanted, tokenizer.pad_token_id, params.batch_size))
    asked, right, nats = by_document(found, guesses)
    return Finding({"masked_accuracy": intervals.ratio(right, asked), "masked_loss": intervals.ratio(nats, asked)})
