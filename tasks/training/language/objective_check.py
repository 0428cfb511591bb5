"""The self-check of encoders and encoder-decoders: documents in one row must give the numbers of each document alone.

There is no slower method for them: a model that differs is refused.
"""

from typing import Any

import torch
from torch import Tensor

from tasks.answers import evaluating
from tasks.causal.self_check import LAST_TOLERANCE, random_ids
from tasks.errors import BadModel, UserError
from tasks.models import Objective
from tasks.training.language import masked, spans

LENGTHS, TARGET_LENGTHS = (9, 14), (4, 6)  # of the two documents, and of the targets of an encoder-decoder


def check(model: Any, objective: Objective, special_ids: list[int]) -> None:
    """Compare packed rows with the own forward pass of `model` on some tokens. Raises BadModel if they differ."""
    ids = random_ids(model, special_ids, sum(LENGTHS) + sum(TARGET_LENGTHS)).to(next(model.parameters()).device)
    inputs, targets = ids.split([sum(LENGTHS), sum(TARGET_LENGTHS)])
    with torch.no_grad(), evaluating(model):
        try:
            packed = _masked(model, inputs) if objective == "masked" else _spans(model, inputs, targets)
        except (AttributeError, LookupError, RuntimeError, TypeError, UserError, ValueError) as failure:
            raise BadModel(_message(model, f"cannot be computed: {type(failure).__name__}: {failure}")) from failure
        parts = zip(inputs.split(LENGTHS), targets.split(TARGET_LENGTHS), strict=True)
        alone = [_own(model, objective, text[None], target[None]) for text, target in parts]
    expected = torch.cat(alone)
    error = float((packed - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not error <= LAST_TOLERANCE:
        raise BadModel(_message(model, f"differ by {error:.2g} from the model's own (allowed: {LAST_TOLERANCE:g})"))


def _message(model: Any, problem: str) -> str:
    return (
        f"{type(model).__name__} failed the self-check: the logits of documents in one row {problem}. Choose another "
        "base, or set objective: causal with a causal model."
    )


def _own(model: Any, objective: Objective, text: Tensor, target: Tensor) -> Tensor:
    """The model's own logits for one document, [tokens, vocab_size]."""
    decoder_inputs = {"decoder_input_ids": target} if objective == "span" else {}
    logits: Tensor = model(input_ids=text, **decoder_inputs).logits[0]
    return logits


def _masked(model: Any, inputs: Tensor) -> Tensor:
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).to(inputs.device)
    hidden = masked.last_hidden(model, inputs[None], positions[None])
    logits: Tensor = masked.head(model)(hidden)[0]
    return logits


def _spans(model: Any, inputs: Tensor, targets: Tensor) -> Tensor:
    documents, target_documents = (
        torch.cat([torch.full((length,), number) for number, length in enumerate(lengths, 1)])[None].to(inputs.device)
        for lengths in (LENGTHS, TARGET_LENGTHS)
    )
    batch = spans.SpanCorruptionBatch(
        inputs[None], documents, targets[None], target_documents, targets[None], float(len(targets)), (0,)
    )
    logits: Tensor = model.get_output_embeddings()(spans.scaled_hidden(model, batch))[0]
    return logits
