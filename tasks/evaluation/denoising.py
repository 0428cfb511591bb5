"""Forward passes of encoders and encoder-decoders: the loss and the correctness of masked tokens and corrupted spans.

Each document is read separately, in chunks of a given length, as plain transformers would read it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.corruption import Ids, SpanCorruptionExample
from tasks.evaluation.items import MAX_CHARACTERS, Item, text_id
from tasks.tokens import Stream

FloatArray = npt.NDArray[np.float64]
IGNORED = -100  # the label of a position that is not predicted, as in PyTorch and transformers


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one document. Every token except the first may be masked or corrupted."""

    document: int
    ids: Ids


@dataclass(frozen=True, slots=True)
class TokenPredictions:
    """The predicted tokens of one text: `nats` is -ln p of the right token, each array is [num_predicted]."""

    nats: FloatArray
    correct: npt.NDArray[np.bool_]


def split_documents(stream: Stream, max_length: int, max_tokens: int) -> list[Chunk]:
    """Split the documents of `stream` into chunks of at most `max_length` tokens.

    If the chunks have more than `max_tokens` tokens together, evenly spaced chunks are kept. A chunk of one token is
    left out, because nothing can be predicted in it.
    """
    boundaries = [*np.flatnonzero(np.asarray(stream.positions) == 0).tolist(), len(stream.ids)]
    chunks = []
    for document, (start, end) in enumerate(pairwise(boundaries)):
        parts = [slice(begin, min(begin + max_length, end)) for begin in range(start, end, max_length)]
        chunks += [
            Chunk(document, np.asarray(stream.ids[part], np.int64)) for part in parts if part.stop - part.start > 1
        ]
    max_chunks = max(1, max_tokens * len(chunks) // max(1, sum(len(chunk.ids) for chunk in chunks)))
    if max_chunks >= len(chunks):
        return chunks
    return [chunks[index] for index in np.linspace(0, len(chunks) - 1, max_chunks).round().astype(int)]


@torch.inference_mode()
def predict_masked(
    model: Any, masked_ids: Sequence[Ids], labels: Sequence[Ids], pad_id: int, batch_size: int
) -> Iterator[TokenPredictions]:
    """Predict the masked tokens of each text with an encoder. `labels` is IGNORED where nothing is predicted."""
    for start in range(0, len(masked_ids), batch_size):
        part = slice(start, start + batch_size)
        ids, mask = _padded(masked_ids[part], pad_id, model.device)
        targets, _ = _padded(labels[part], IGNORED, model.device)
        yield from _predictions(model(input_ids=ids, attention_mask=mask).logits, targets)


@torch.inference_mode()
def predict_spans(
    model: Any, examples: Sequence[SpanCorruptionExample], end_id: int, pad_id: int, batch_size: int
) -> Iterator[TokenPredictions]:
    """Predict the targets of each example and the end token with an encoder-decoder (teacher forcing)."""
    for start in range(0, len(examples), batch_size):
        part = examples[start : start + batch_size]
        ids, mask = _padded([example.input_ids for example in part], pad_id, model.device)
        targets, _ = _padded([np.append(example.target_ids, end_id) for example in part], IGNORED, model.device)
        yield from _predictions(model(input_ids=ids, attention_mask=mask, labels=targets).logits, targets)


def sum_by_document(
    chunks: Sequence[Chunk], predictions: Sequence[TokenPredictions]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Number of predicted tokens, of correct ones, and sum of nats, each [num_documents]; one prediction per chunk."""
    _, documents = np.unique([chunk.document for chunk in chunks], return_inverse=True)
    by_chunk = [(len(p.nats), p.correct.sum(), p.nats.sum()) for p in predictions]
    num_predicted, num_correct, nats = (
        np.bincount(documents, np.array(column)).astype(np.float64) for column in zip(*by_chunk, strict=True)
    )
    return num_predicted, num_correct, nats


def document_items(
    score_name: str, model: str, tokenizer: Any, chunks: Sequence[Chunk], values: FloatArray
) -> list[Item]:
    """One item for each document that was read; `values` [num_documents] are its scores, in the order of documents."""
    ids_by_document: dict[int, list[int]] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.document):
        ids_by_document.setdefault(chunk.document, []).extend(chunk.ids.tolist())
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in ids_by_document.values()]
    rows = zip(texts, values, strict=True)
    return [Item(score_name, model, text_id(text), "", text[:MAX_CHARACTERS], "", float(value)) for text, value in rows]


def _predictions(logits: Tensor, targets: Tensor) -> Iterator[TokenPredictions]:
    for row_logits, row_targets in zip(logits.float(), targets, strict=True):
        is_predicted = row_targets != IGNORED
        nats = F.cross_entropy(row_logits[is_predicted], row_targets[is_predicted], reduction="none")
        correct = row_logits[is_predicted].argmax(-1) == row_targets[is_predicted]
        yield TokenPredictions(nats.double().cpu().numpy(), correct.cpu().numpy())


def _padded(rows: Sequence[Ids], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows as one array [num_rows, longest], filled with `fill` at the end, and the attention mask."""
    longest = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, longest - len(row)), constant_values=fill) for row in rows])
    mask = np.stack([np.arange(longest) < len(row) for row in rows]).astype(np.int64)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
