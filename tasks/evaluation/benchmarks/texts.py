"""Perplexity of a set of texts: per token, per word and per byte, with a sliding window, weighted by tokens."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tasks.evaluation import intervals
from tasks.evaluation.benchmarks import encoding
from tasks.evaluation.benchmarks.examples import Example
from tasks.evaluation.benchmarks.params import BenchmarkSet
from tasks.evaluation.continuations import Pair
from tasks.evaluation.inputs import EvaluationInputs, MetricResult
from tasks.evaluation.items import MAX_CHARACTERS, Item

MIN_TEXTS = 8  # below it, the interval is that of the windows, because few texts say little about the variation


def measure(
    name: str, model_name: str, examples: Sequence[Example], params: BenchmarkSet, inputs: EvaluationInputs,
    result: MetricResult,
) -> dict[str, Any]:  # fmt: skip
    """perplexity (per token), word_perplexity, byte_perplexity and bits_per_byte; items go to `result`.

    n is the number of texts, or of windows if there are fewer than MIN_TEXTS texts.
    """
    from tasks.causal.backbone import context_length
    from tasks.evaluation.batches import likelihoods

    model, tokenizer = inputs.model_and_tokenizer(model_name)
    length = min(params.window or context_length(model), context_length(model))
    texts = [one.contexts[0] for one in examples]
    ids = encoding.text_ids(tokenizer, texts, "none" if params.prefix == "bos" else params.prefix)
    first = encoding.prefix_id(tokenizer)
    by_text = [list(windows(own, first, length, params.stride or length)) for own in ids]
    pairs = [pair for own in by_text for pair in own]
    scored = iter(likelihoods(inputs.source(model_name), pairs, inputs.params.batch_size))
    nats_by_window = [[-next(scored).total for _ in own] for own in by_text]
    nats = np.array([sum(own) for own in nats_by_window])
    num_tokens = np.array([sum(len(pair.continuation) for pair in own) for own in by_text], np.float64)
    num_words = np.array([len(re.split(r"\s+", text)) for text in texts], np.float64)
    num_bytes = np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], np.float64)
    result.items += [
        Item(f"benchmarks.{name}.bits_per_byte", model_name, one.id, one.group, "", text[:MAX_CHARACTERS], float(value))
        for one, text, value in zip(examples, texts, nats / num_bytes / math.log(2), strict=True)
    ]
    if len(examples) < MIN_TEXTS:
        shares = [np.array([len(pair.continuation) for pair in own]) for own in by_text]
        nats = np.concatenate([np.array(own) for own in nats_by_window])
        num_words, num_bytes = (
            np.concatenate(
                [one * total / one_share.sum() for one, total, one_share in zip(shares, totals, shares, strict=True)]
            )
            for totals in (num_words, num_bytes)
        )
        num_tokens = np.concatenate(shares).astype(np.float64)
    per_byte = intervals.ratio(nats, num_bytes)
    baseline = _byte_entropy(texts)
    return {
        "perplexity": intervals.transform(intervals.ratio(nats, num_tokens), math.exp).compared_with(
            "uniform", float(len(tokenizer))
        ),
        "word_perplexity": intervals.transform(intervals.ratio(nats, num_words), _exp).compared_with(
            "unigram of bytes", _exp(baseline * float(num_bytes.sum() / num_words.sum()))
        ),
        "byte_perplexity": intervals.transform(per_byte, math.exp).compared_with(
            "unigram of bytes", math.exp(baseline)
        ),
        "bits_per_byte": intervals.transform(per_byte, lambda value: value / math.log(2)).compared_with(
            "unigram of bytes", baseline / math.log(2)
        ),
    }


def windows(ids: Sequence[int], first: int, length: int, stride: int) -> Iterator[Pair]:
    """Windows of a text as (what the model only reads, what it predicts); each token is predicted once.

    first: the token before the text. A window has at most `length` inputs. It moves by `stride` tokens, so that each of
    them except the first ones is predicted from at least length - stride others. Without an overlap, only the token
    before a window precedes it, as in lm-evaluation-harness.
    """
    whole = [first, *ids]
    stride, end = min(stride, length), 1
    while end < len(whole):
        start, end = end, min(len(whole), end + (length if end == 1 else stride))
        begin = max(0, end - 1 - length) if stride < length else start - 1
        yield Pair(whole[begin:start], whole[start:end])


def _byte_entropy(texts: Sequence[str]) -> float:
    """Nats per byte of a unigram model of the bytes of the texts themselves."""
    counts = np.array(list(Counter(b"".join(text.encode("utf-8", "surrogatepass") for text in texts)).values()))
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _exp(value: float) -> float:
    """exp, without an overflow."""
    return math.exp(min(value, 700.0))
