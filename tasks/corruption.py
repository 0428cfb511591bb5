"""Changed inputs for pretraining: masked tokens (BERT, arXiv:1810.04805), corrupted spans (T5, arXiv:1910.10683), and
texts whose middle comes last (fill in the middle, arXiv:2207.14255).

The special tokens of the first two (<|mask|>, <extra_id_0>, <extra_id_1> ...) are appended to a copy of the tokenizer;
that copy is saved with the model. Those of the last one are part of the tokenizer, because later stages read it, too.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, model_validator

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MASK = "<|mask|>"
SENTINEL = "<extra_id_{}>"  # the names in T5's own tokenizers
# What stands before the prefix, the suffix and the middle of a text.
MIDDLE_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # of this project, Qwen and CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder and Granite
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
NUM_MIDDLE_TOKENS = 3


class Masking(BaseModel, frozen=True, extra="forbid"):
    """Which tokens are masked for an encoder. The defaults are BERT's."""

    share: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that the model must predict.")
    mask_share: float = Field(
        0.8, ge=0, le=1, description="Share of the tokens to predict that are replaced by the mask token."
    )
    random_share: float = Field(
        0.1, ge=0, le=1, description="Share of the tokens to predict that are replaced by a random token. "
        "The tokens that are neither masked nor replaced stay as they are.",
    )  # fmt: skip

    @model_validator(mode="after")
    def _at_most_all(self) -> "Masking":
        if self.mask_share + self.random_share > 1:
            total = self.mask_share + self.random_share
            raise ValueError(f"mask_share + random_share must be at most 1, not {total:g}; decrease one of them")
        return self


class SpanCorruption(BaseModel, frozen=True, extra="forbid"):
    """Which spans are replaced by sentinels for an encoder-decoder. The defaults are T5's."""

    share: float = Field(0.15, gt=0, lt=1, description="Share of the tokens that are replaced by sentinels.")
    mean_length: float = Field(3.0, ge=1, description="Mean length of a corrupted span, in tokens.")

    def sizes(self, length: int) -> tuple[int, int]:
        """The number of corrupted tokens and of spans in a text of `length` tokens; (0, 0) if it is shorter than 2."""
        if length < 2:
            return 0, 0
        num_tokens = min(max(1, round(length * self.share)), length - 1)
        return num_tokens, min(max(1, round(num_tokens / self.mean_length)), num_tokens, length - num_tokens)


@dataclass(frozen=True, slots=True)
class SpanCorruptionExample:
    """A text with corrupted spans: `input_ids` for the encoder, `target_ids` for the decoder, without an end token."""

    input_ids: Ids
    target_ids: Ids


def mask_tokens(
    ids: Ids, maskable: Flags, masking: Masking, mask_id: int, vocab_size: int, generator: np.random.Generator
) -> tuple[Ids, Flags]:
    """Mask tokens of `ids` [n] where `maskable` [n] allows it.

    Returns the masked ids [n] and which of them the model must predict [n]: at least one if any token is maskable.
    """
    candidates = np.flatnonzero(maskable)
    num_predicted = min(len(candidates), max(1, round(len(candidates) * masking.share)))
    positions = np.sort(generator.choice(candidates, num_predicted, replace=False)) if num_predicted else candidates
    # BERT replaces only some of the predicted tokens by the mask token, because that token never occurs in fine-tuning.
    draw = generator.random(num_predicted)
    masked_ids = ids.copy()
    masked_ids[positions[draw < masking.mask_share]] = mask_id
    is_random = (draw >= masking.mask_share) & (draw < masking.mask_share + masking.random_share)
    random_positions = positions[is_random]
    masked_ids[random_positions] = generator.integers(0, vocab_size, len(random_positions))
    is_predicted = np.zeros(len(ids), np.bool_)
    is_predicted[positions] = True
    return masked_ids, is_predicted


def draw_spans(length: int, span_corruption: SpanCorruption, generator: np.random.Generator) -> Flags:
    """Draw which of `length` tokens are corrupted [length].

    The first token never is; two spans are never adjacent, and the last token ends a span. This is T5's
    `random_spans_noise_mask`: kept and corrupted runs alternate, and the lengths of each kind are drawn uniformly.
    """
    num_corrupted, num_spans = span_corruption.sizes(length)
    if not num_spans:
        return np.zeros(length, np.bool_)
    run_lengths = np.empty(2 * num_spans, np.int64)
    run_lengths[0::2] = _random_partition(length - num_corrupted, num_spans, generator)
    run_lengths[1::2] = _random_partition(num_corrupted, num_spans, generator)
    return np.repeat(np.arange(2 * num_spans) % 2 == 1, run_lengths)


def corrupt_spans(ids: Ids, is_corrupted: Flags, sentinels: Ids) -> SpanCorruptionExample:
    """Replace each span of `ids` [n] that `is_corrupted` [n] marks by one sentinel.

    The targets are, for each span, its sentinel followed by the tokens of the span.
    """
    span_starts = is_corrupted & ~np.concatenate(([False], is_corrupted[:-1]))
    span_numbers = span_starts.cumsum() - 1  # of the latest span at each token; -1 before the first span
    with_sentinels = np.where(span_starts, sentinels[np.maximum(span_numbers, 0)], ids)
    input_ids = with_sentinels[~is_corrupted | span_starts]
    targets = [
        np.concatenate(([sentinels[i]], ids[is_corrupted & (span_numbers == i)])) for i in range(int(span_starts.sum()))
    ]
    return SpanCorruptionExample(input_ids, np.concatenate(targets) if targets else ids[:0])


def _random_partition(total: int, num_parts: int, generator: np.random.Generator) -> Ids:
    """`total` as a sum of `num_parts` integers of at least 1; all such sums are equally likely."""
    borders = (
        np.sort(generator.choice(total - 1, num_parts - 1, replace=False)) + 1
        if num_parts > 1
        else np.empty(0, np.int64)
    )
    return np.diff(np.concatenate(([0], borders, [total]))).astype(np.int64)


def move_middle(ids: Ids, tokens: tuple[int, int, int], suffix_first: bool, generator: np.random.Generator) -> Ids:
    """Cut `ids` [n] at two random places and put the middle last: [n + 3].

    tokens: those before prefix, suffix and middle. suffix_first: SPM, in which the suffix comes before the prefix and
    the middle follows the prefix directly; otherwise PSM.
    """
    first, second = np.sort(generator.integers(0, len(ids) + 1, 2))
    prefix, middle, suffix = ids[:first], ids[first:second], ids[second:]
    before_prefix, before_suffix, before_middle = ([token] for token in tokens)
    parts: tuple[npt.ArrayLike, ...] = (before_prefix, before_suffix, suffix, before_middle, prefix, middle)
    if not suffix_first:
        parts = (before_prefix, prefix, before_suffix, suffix, before_middle, middle)
    return np.concatenate(parts).astype(ids.dtype)


def middle_ids(tokenizer: Any) -> tuple[int, int, int] | None:
    """The tokens before prefix, suffix and middle that `tokenizer` has; None if it has none."""
    vocabulary = tokenizer.get_vocab()
    for names in MIDDLE_TOKENS:
        if all(name in vocabulary for name in names):
            prefix, suffix, middle = (int(vocabulary[name]) for name in names)
            return prefix, suffix, middle
    return None


def add_middle_tokens(tokenizer: Any) -> None:
    """Add the tokens of MIDDLE_TOKENS, unless `tokenizer` has such tokens."""
    if middle_ids(tokenizer) is None:
        names = {"additional_special_tokens": list(MIDDLE_TOKENS[0])}
        tokenizer.add_special_tokens(names, replace_extra_special_tokens=False)


def with_mask_token(tokenizer: Any) -> Any:
    """A copy of `tokenizer` that has a mask token."""
    extended = copy.deepcopy(tokenizer)
    if extended.mask_token is None:
        extended.add_special_tokens({"mask_token": MASK})
    return extended


def with_sentinels(tokenizer: Any, number: int) -> Any:
    """A copy of `tokenizer` that has at least `number` sentinels."""
    from tokenizers import AddedToken

    extended = copy.deepcopy(tokenizer)
    names = [SENTINEL.format(i) for i in range(number)]
    vocabulary = extended.get_vocab()
    missing = [AddedToken(name, special=True, normalized=False) for name in names if name not in vocabulary]
    extended.add_tokens(missing, special_tokens=True)
    return extended


def sentinel_ids(tokenizer: Any) -> Ids:
    """The ids of the sentinels that `tokenizer` has, in order."""
    vocabulary, ids = tokenizer.get_vocab(), list[int]()
    while (name := SENTINEL.format(len(ids))) in vocabulary:
        ids.append(vocabulary[name])
    return np.array(ids, np.int64)
