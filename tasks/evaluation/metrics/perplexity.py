"""Perplexity of the pretrained model on test documents, compared with baselines on the same tokens.

Perplexity is exp(mean nats per token) over the packed test stream; each token is predicted from those that precede it
in its document and row. Bits per byte is the same loss divided by the number of UTF-8 bytes, so that models with
different vocabularies can be compared. The baselines are a unigram and a Kneser-Ney bigram model of the training
tokens, and the uniform distribution. Intervals: bootstrap over documents; n is the number of documents.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from tasks.evaluation import intervals
from tasks.evaluation.inputs import EvaluationInputs, MetricResult, NotMeasured, evenly_spaced
from tasks.evaluation.items import MAX_CHARACTERS, Item, text_id
from tasks.evaluation.ngram import KneserNey, Unigram
from tasks.reports import Score
from tasks.tokens import Stream

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
SCORES = ("perplexity", "unigram_perplexity", "bigram_perplexity", "uniform_perplexity", "bits_per_byte")


class Params(BaseModel, frozen=True, extra="forbid"):
    """Perplexity and bits per byte of a decoder, and of its baselines."""

    model: str = Field("pretrain", description="Name of the stage whose model is measured.")
    sequence_length: int = Field(256, ge=2, description="Length of a row of the packed test stream, in tokens.")
    max_tokens: int = Field(
        100_000, ge=1, description="Maximum number of test tokens that are read, in evenly spaced rows."
    )
    max_baseline_tokens: int = Field(
        20_000_000, ge=2, description="Maximum number of training tokens that the n-gram baselines are estimated from."
    )
    batch_size: int = Field(16, ge=1, description="Number of rows per forward pass.")


def measure(inputs: EvaluationInputs, params: Params) -> MetricResult:
    """perplexity, unigram_perplexity, bigram_perplexity, uniform_perplexity, bits_per_byte. Raises NotMeasured."""
    from tasks.evaluation.scoring import stream_nats

    objective = inputs.objective(params.model)
    if objective != "causal":
        raise NotMeasured(f"{params.model} does not predict the next token, because its objective is {objective}")
    stream, model = inputs.stream(), inputs.model(params.model)
    if stream.num_rows(params.sequence_length) == 0:
        raise NotMeasured("the split 'test' contains no document with at least two tokens")
    rows = choose_rows(stream, params)
    nats = np.concatenate(stream_nats(model, stream, rows, params.sequence_length, params.batch_size))
    contexts, targets, documents, is_target = targets_of_rows(stream, rows, params.sequence_length)
    vocab_size = int(model.config.vocab_size)
    unigram, bigram = _fit_baselines(inputs.stream("train"), vocab_size, params.max_baseline_tokens)
    nats_by_model = {
        "perplexity": nats[is_target],
        "unigram_perplexity": -unigram.log_probs(targets),
        "bigram_perplexity": -bigram.log_probs(contexts, targets),
    }
    scores: dict[str, Any] = {name: _perplexity(values, documents) for name, values in nats_by_model.items()}
    n = scores["perplexity"].n
    scores["uniform_perplexity"] = intervals.rounded_score(vocab_size, vocab_size, vocab_size, n)
    num_bytes = token_bytes(inputs.tokenizer, vocab_size)[targets]
    scores["bits_per_byte"] = _bits_per_byte(nats[is_target], num_bytes, documents)
    unigram_bits = _bits_per_byte(nats_by_model["unigram_perplexity"], num_bytes, documents)
    scores["bits_per_byte"] = scores["bits_per_byte"].compared_with("unigram", unigram_bits.value)
    scores["perplexity"] = scores["perplexity"].compared_with("unigram", scores["unigram_perplexity"].value)
    return MetricResult(scores, items=_items(inputs, params.model, stream, documents, nats[is_target], num_bytes))


def _items(
    inputs: EvaluationInputs, model: str, stream: Stream, documents: IntArray, nats: FloatArray, num_bytes: IntArray
) -> list[Item]:
    """Bits per byte of each document; its id is that of its text, which does not depend on the vocabulary."""
    bits, bytes_read = _sum_by_document(documents, nats / math.log(2), num_bytes)
    starts = [*np.flatnonzero(np.asarray(stream.positions) == 0), len(stream.ids)]
    items = []
    for number, own_bits, own_bytes in zip(np.unique(documents), bits, bytes_read, strict=True):
        first, end = starts[number - 1], starts[number]  # documents are numbered from 1
        text = inputs.tokenizer.decode(np.asarray(stream.ids[first:end], np.int64).tolist(), skip_special_tokens=True)
        value = float(own_bits / max(1, own_bytes))
        items.append(Item("bits_per_byte", model, text_id(text), "", text[:MAX_CHARACTERS], "", value))
    return items


def choose_rows(stream: Stream, params: Params) -> list[int]:
    """The indices of the rows that are read: all of them, or evenly spaced ones."""
    row_indices = range(stream.num_rows(params.sequence_length))
    return evenly_spaced(row_indices, max(1, params.max_tokens // params.sequence_length))


def targets_of_rows(
    stream: Stream, rows: list[int], sequence_length: int
) -> tuple[IntArray, IntArray, IntArray, BoolArray]:
    """Context token, target token and document number of each target [n], and which positions are targets.

    Every token of the rows is a position except the first of each row. It is a target unless it begins a document,
    which nothing in its own document precedes, or the mask excludes it.
    """
    parts = [stream.row(row, sequence_length) for row in rows]
    document_numbers = np.cumsum(np.asarray(stream.positions) == 0)
    # A row holds one token more than `sequence_length`: its last target is the first context of the next row.
    numbers = [document_numbers[row * sequence_length : (row + 1) * sequence_length + 1] for row in rows]
    is_target = np.concatenate([(positions[1:] > 0) & (mask[1:] > 0) for _, positions, mask in parts])
    contexts = np.concatenate([ids[:-1] for ids, _, _ in parts])[is_target].astype(np.int64)
    targets = np.concatenate([ids[1:] for ids, _, _ in parts])[is_target].astype(np.int64)
    return contexts, targets, np.concatenate([part[1:] for part in numbers])[is_target], is_target


def _fit_baselines(stream: Stream, vocab_size: int, max_tokens: int) -> tuple[Unigram, KneserNey]:
    ids = np.asarray(stream.ids[:max_tokens], np.int64)
    within_document = (np.asarray(stream.positions[:max_tokens]) > 0)[1:]
    contexts, targets = ids[:-1][within_document], ids[1:][within_document]
    return Unigram.fit(targets, vocab_size), KneserNey.fit(contexts, targets, vocab_size)


def _perplexity(nats: FloatArray, documents: IntArray) -> Score:
    nats_by_document, tokens_by_document = _sum_by_document(documents, nats, np.ones_like(nats))
    return intervals.transform(intervals.ratio(nats_by_document, tokens_by_document), math.exp)


def _bits_per_byte(nats: FloatArray, num_bytes: IntArray, documents: IntArray) -> Score:
    nats_by_document, bytes_by_document = _sum_by_document(documents, nats, num_bytes)
    return intervals.transform(intervals.ratio(nats_by_document, bytes_by_document), lambda nats: nats / math.log(2))


def _sum_by_document(documents: IntArray, *columns: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The sum of each column [n] over the targets of each document that has one, each [num_documents]."""
    _, indices = np.unique(documents, return_inverse=True)
    return [np.bincount(indices, weights=column) for column in columns]


def token_bytes(tokenizer: Any, vocab_size: int) -> IntArray:
    """The number of UTF-8 bytes of text that each token stands for, [vocab_size]; 0 for special tokens.

    A byte-level vocabulary writes each byte as one character; the tokens of any other vocabulary are decoded.
    """
    special_ids = set(tokenizer.all_special_ids)
    is_byte_level = "ByteLevel" in str(tokenizer.backend_tokenizer.decoder)

    def length(token_id: int) -> int:
        if token_id in special_ids or token_id >= len(tokenizer):
            return 0
        if is_byte_level:
            return len(tokenizer.convert_ids_to_tokens(token_id) or "")
        return len(tokenizer.decode([token_id]).encode())

    return np.array([length(token_id) for token_id in range(vocab_size)], np.int64)
