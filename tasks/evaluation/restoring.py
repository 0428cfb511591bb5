"""Forward passes of encoders and encoder-decoders, whose numbers the metrics count: nats of hidden and cut-out tokens.

Each document is read alone, in pieces of a given length, as plain transformers would.
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
from tasks.tokens import Stream

Floats = npt.NDArray[np.float64]
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one document; all but the first may be hidden or cut out."""

    document: int
    ids: Ids


@dataclass(frozen=True, slots=True)
class Guess:
    """What was made of the asked tokens of one text: -ln p of each, and whether it was the likeliest, each [asked]."""

    nats: Floats
    right: npt.NDArray[np.bool_]


def pieces(stream: Stream, max_length: int, max_tokens: int) -> list[Piece]:
    """The documents of `stream` in pieces of at most `max_length` tokens; where that is more, evenly spaced ones."""
    begins = [*np.flatnonzero(np.asarray(stream.positions) == 0).tolist(), len(stream.ids)]
    found = []
    for document, (begin, end) in enumerate(pairwise(begins)):
        parts = [slice(at, min(at + max_length, end)) for at in range(begin, end, max_length)]
        found += [
            Piece(document, np.asarray(stream.ids[part], np.int64)) for part in parts if part.stop - part.start > 1
        ]
    most = max(1, max_tokens * len(found) // max(1, sum(len(piece.ids) for piece in found)))
    if most >= len(found):
        return found
    return [found[place] for place in np.linspace(0, len(found) - 1, most).round().astype(int)]


@torch.inference_mode()
def guess_hidden(
    model: Any, given: Sequence[Ids], wanted: Sequence[Ids], pad_id: int, batch_size: int
) -> Iterator[Guess]:
    """What an encoder makes of texts with hidden tokens; `wanted` is IGNORED where nothing is asked."""
    for start in range(0, len(given), batch_size):
        part = slice(start, start + batch_size)
        ids, mask = _padded(given[part], pad_id, model.device)
        targets, _ = _padded(wanted[part], IGNORED, model.device)
        yield from _guesses(model(input_ids=ids, attention_mask=mask).logits, targets)


@torch.inference_mode()
def guess_cut(
    model: Any, riddles: Sequence[SpanCorruptionExample], end_id: int, pad_id: int, batch_size: int
) -> Iterator[Guess]:
    """What an encoder-decoder makes of riddles; the end token is asked for as well."""
    for start in range(0, len(riddles), batch_size):
        part = riddles[start : start + batch_size]
        ids, mask = _padded([riddle.input_ids for riddle in part], pad_id, model.device)
        targets, _ = _padded([np.append(riddle.target_ids, end_id) for riddle in part], IGNORED, model.device)
        yield from _guesses(model(input_ids=ids, attention_mask=mask, labels=targets).logits, targets)


def by_document(found: Sequence[Piece], guesses: Sequence[Guess]) -> tuple[Floats, Floats, Floats]:
    """Tokens asked for, those guessed right and nats, each [documents]; `guesses` are those of the pieces, in order."""
    _, documents = np.unique([piece.document for piece in found], return_inverse=True)
    sums = [(len(guess.nats), guess.right.sum(), guess.nats.sum()) for guess in guesses]
    by_kind = (np.bincount(documents, np.array(one)).astype(np.float64) for one in zip(*sums, strict=True))
    asked, right, nats = by_kind
    return asked, right, nats


def _guesses(logits: Tensor, targets: Tensor) -> Iterator[Guess]:
    for scores, wanted in zip(logits.float(), targets, strict=True):
        asked = wanted != IGNORED
        nats = F.cross_entropy(scores[asked], wanted[asked], reduction="none")
        right = scores[asked].argmax(-1) == wanted[asked]
        yield Guess(nats.double().cpu().numpy(), right.cpu().numpy())


def _padded(rows: Sequence[Ids], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = np.stack([np.pad(row, (0, longest - len(row)), constant_values=fill) for row in rows])
    mask = np.stack([np.arange(longest) < len(row) for row in rows]).astype(np.int64)
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
