"""Fill in the middle (FIM, arXiv:2207.14255): in a share of the texts, the middle comes last.

So a causal model also learns to write what belongs between a prefix and a suffix.

Rows consist of whole texts: documents, or pieces of those that are longer than a row. So prefix, suffix and middle are
in one row (the context-level variant of the paper), and each text is changed by itself. Half of the changed texts have
the form PSM, half SPM. Which ones, and where they are cut, depends on the seed and their place in the stream alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.corruption import NUM_MIDDLE_TOKENS, middle_ids, move_middle
from tasks.errors import BadModel
from tasks.tokens import Records
from tasks.training.language.mixture import GroupedRows, MixedRows, pack_rows
from tasks.training.language.rows import PackedRows

MAX_ADDED = NUM_MIDDLE_TOKENS + 1  # tokens of a piece: those around its parts, and the first one of its document


def tokens_of(tokenizer: Any, section: str) -> tuple[int, int, int]:
    """The tokens before prefix, suffix and middle. Raises BadModel if `tokenizer` has none."""
    tokens = middle_ids(tokenizer)
    if tokens is None:
        raise BadModel(
            f"{section}.fill_in_middle needs special tokens such as <|fim_prefix|>, which the tokenizer lacks. Set "
            "tokenization.fill_in_middle: true for a new tokenizer, choose a tokenizer of a code model (Qwen, "
            f"StarCoder, CodeLlama, DeepSeek), or set {section}.fill_in_middle: 0."
        )
    return tokens


class MiddleRows(MixedRows):
    """Rows of whole texts, some of which are changed. With a mixture, it chooses the rows."""

    def __init__(self, packed: PackedRows, folder: Path, params: Any, tokenizer: Any, section: str) -> None:
        self.tokens = tokens_of(tokenizer, section)
        self.first_id, self.end_id = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.share, self.seed = params.fill_in_middle, params.seed
        super().__init__(packed, folder, params, params.global_batch_size, True, section)
        self.count = len(self.rows.sizes)

    def _make_rows(self, records: Records, codes: npt.NDArray[np.int64], params: Any) -> GroupedRows:
        capacity = self.length + 1  # the last token of a row is a target only
        pieces, codes = cut_pieces(records, codes, capacity - MAX_ADDED)
        padded = replace(pieces, lengths=pieces.lengths + MAX_ADDED)
        rows = pack_rows(padded, codes, len(self.names), capacity, params.seed)
        return replace(rows, lengths=rows.lengths - MAX_ADDED, sizes=rows.sizes - MAX_ADDED * np.diff(rows.firsts))

    def _read(self, row: int) -> tuple[npt.NDArray[Any], ...]:
        segments = range(self.rows.firsts[row], self.rows.firsts[row + 1])
        texts = [self._text(int(self.rows.starts[i]), int(self.rows.lengths[i])) for i in segments]
        ids = np.concatenate(texts)
        positions = np.concatenate([np.arange(len(text)) for text in texts])
        return ids, positions, np.ones(len(ids), np.uint8)

    def _text(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """A document or a piece of one, maybe changed; special tokens at its beginning and end stay there.

        A later piece begins with the first token of documents, so that every token of the document is predicted.
        """
        ids = self.stream.ids[start : start + length].astype(np.int64)
        if self.stream.positions[start] > 0 and self.first_id is not None:
            ids = np.concatenate(([self.first_id], ids))
        generator = np.random.default_rng((self.seed, start))
        if generator.random() >= self.share:
            return ids
        head, tail = int(ids[0] == self.first_id), len(ids) - int(ids[-1] == self.end_id)
        suffix_first = bool(generator.integers(2))
        moved = move_middle(ids[head : max(head, tail)], self.tokens, suffix_first, generator)
        return np.concatenate((ids[:head], moved, ids[max(head, tail) :]))

    def note(self) -> str:
        """One sentence for the report."""
        return (
            f"fill_in_middle: {self.share:.0%} of {len(self.rows.lengths):,} texts (documents, or pieces of at most "
            f"{self.length + 1 - MAX_ADDED} tokens) have their middle last."
        )


def cut_pieces(
    records: Records, codes: npt.NDArray[np.int64], max_length: int
) -> tuple[Records, npt.NDArray[np.int64]]:
    """The records in pieces of at most `max_length` tokens, and the group of each piece."""
    counts = -(-records.lengths // max_length)
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
    starts = records.starts[owner] + number * max_length
    lengths = np.minimum(max_length, records.lengths[owner] - number * max_length)
    return replace(records, starts=starts, lengths=lengths), codes[owner]
