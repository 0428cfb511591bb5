"""Log-likelihoods of continuations. What several of them share is computed once.

Continuations of one prompt stand in one row behind it (tasks/causal/shared_prompts.py has the idea). Prompts that begin
with the same tokens, such as few-shot examples, share the keys and values of this beginning. Every number is the one of
a sequence of its own up to rounding, whatever the batch size. A model whose self-check does not allow shared prompts
reads a sequence for each continuation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache

from tasks import peft
from tasks.answers import answer_logits, batches_by_length, device_of, evaluating, logit_slices
from tasks.causal import methods
from tasks.causal.backbone import alone, context_length, run, with_layout
from tasks.causal.masks import Layout

MIN_SHARED_TOKENS = 16  # at the beginning of prompts; for fewer, a cache does not pay
# A row has at most MAX_ROW_PROMPTS times the length of its prompt and MIN_ROOM tokens: attention costs the square of
# the length, and a long row of continuations of a short prompt saves little.
MAX_ROW_PROMPTS, MIN_ROOM = 4, 32
TOLERANCE = 2e-4  # nats, between the numbers with and without a shared beginning

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt with one continuation, as token ids. No prompt may be empty."""

    prompt: list[int]
    continuation: list[int]


@dataclass(frozen=True, slots=True)
class Likelihood:
    """ln p of each token of a continuation; is_greedy: whether each one is the most probable token."""

    log_probs: FloatArray
    is_greedy: bool

    @property
    def total(self) -> float:
        """ln p of the whole continuation."""
        return float(self.log_probs.sum())


@dataclass(frozen=True, slots=True)
class _Row:
    """A prompt and the continuations that the model reads behind it; `numbers` are theirs among all pairs."""

    prompt: tuple[int, ...]
    continuations: list[list[int]]
    numbers: list[int]

    def num_inputs(self, start: int) -> int:
        # Nothing is predicted after the last token of a continuation, so the model does not read it.
        return len(self.prompt) - start + sum(len(one) - 1 for one in self.continuations)


@dataclass(frozen=True, slots=True)
class Part:
    """Pairs that are scored together. numbers: theirs among all pairs, in order.

    start: how many tokens their prompts share, whose keys and values are computed once. If there are any, only the
    `rows` of the pairs are scored, because the others are in other parts.
    """

    numbers: list[int]
    start: int = 0
    rows: Sequence[int] = ()


def fit(model: Any, pairs: Sequence[Pair]) -> tuple[list[Pair], int, int]:
    """The pairs as they fit into the context: (pairs, number of shortened prompts, number of pairs that never fit).

    A prompt that is too long loses tokens at its beginning. A continuation that is longer than the context stays as it
    is, and `likelihoods` must not get it.
    """
    room = context_length(model) - peft.num_virtual_tokens(model) + 1  # the last token is no input
    fitted, num_shortened, num_too_long = list[Pair](), 0, 0
    for pair in pairs:
        excess = len(pair.prompt) + len(pair.continuation) - room
        if excess <= 0:
            fitted.append(pair)
        elif excess < len(pair.prompt):
            fitted.append(Pair(pair.prompt[excess:], pair.continuation))
            num_shortened += 1
        else:
            fitted.append(pair)
            num_too_long += 1
    return fitted, num_shortened, num_too_long


@torch.no_grad()
def likelihoods(model: Any, pairs: Sequence[Pair], batch_size: int) -> list[Likelihood]:
    """The likelihood of each pair, in their order. `batch_size`: the maximum number of rows of a forward pass."""
    result: list[Likelihood] = [Likelihood(np.empty(0), True)] * len(pairs)
    with evaluating(model):
        for start, group in _groups_of_pairs(model, pairs):
            prefix = _read_prefix(model, group, start)
            for batch in batches_by_length([row.num_inputs(0) for row in group], batch_size):
                for number, likelihood in _score(model, [group[index] for index in batch], prefix):
                    result[number] = likelihood
    return result


def parts(model: Any, pairs: Sequence[Pair], batch_size: int) -> Iterator[Part]:
    """Divide the work of `likelihoods` into parts with the same forward passes, of about `batch_size` pairs each."""
    numbers = list[int]()
    for start, group in _groups_of_pairs(model, pairs):
        own = sorted(number for row in group for number in row.numbers)
        for batch in batches_by_length([row.num_inputs(0) for row in group], batch_size):
            if start:
                yield Part(own, start, batch)
                continue
            numbers += [number for index in batch for number in group[index].numbers]
            if len(numbers) >= batch_size:
                yield Part(sorted(numbers))
                numbers = []
    if numbers:
        yield Part(sorted(numbers))


@torch.no_grad()
def score_part(model: Any, pairs: Sequence[Pair], part: Part, batch_size: int) -> Iterator[tuple[int, Likelihood]]:
    """(number, likelihood) of each pair of a part. pairs: those with the numbers `part.numbers`."""
    if not part.start:
        yield from zip(part.numbers, likelihoods(model, pairs, batch_size), strict=True)
        return
    with evaluating(model):
        group = _rows(pairs, can_share=True)
        prefix = _read_prefix(model, group, part.start)
        for index, likelihood in _score(model, [group[row] for row in part.rows], prefix):
            yield part.numbers[index], likelihood


def _groups_of_pairs(model: Any, pairs: Sequence[Pair]) -> Iterator[tuple[int, list[_Row]]]:
    """Groups as of `_groups`; one of all rows where the model cannot share a beginning."""
    can_share = methods.of(model).pairs == "shared" and not methods.of(model).equal_lengths
    rows = _rows(pairs, can_share)
    yield from _groups(rows) if can_share and not peft.num_virtual_tokens(model) else [(0, rows)]


def _rows(pairs: Sequence[Pair], can_share: bool) -> list[_Row]:
    """Rows with as many continuations of a prompt as it pays to read together, sorted by the prompts.

    A continuation without tokens needs no row.
    """
    rows, latest = list[_Row](), dict[tuple[int, ...], _Row]()
    for number, pair in enumerate(pairs):
        if pair.continuation:
            prompt = tuple(pair.prompt)
            row = latest.get(prompt) if can_share else None
            if row is None or row.num_inputs(0) + len(pair.continuation) > MAX_ROW_PROMPTS * len(prompt) + MIN_ROOM:
                row = latest[prompt] = _Row(prompt, [], [])
                rows.append(row)
            row.continuations.append(pair.continuation)
            row.numbers.append(number)
    return sorted(rows, key=lambda row: (row.prompt, row.numbers))


def _groups(rows: Sequence[_Row]) -> Iterator[tuple[int, list[_Row]]]:
    """Consecutive rows with the number of tokens that their prompts share at the beginning; 0 for a row alone."""
    group, shared = list[_Row](), 0
    for row in rows:
        if group:
            # The last token of a prompt is always read with the row: its state predicts the first token that follows.
            limit = min(len(row.prompt) - 1, shared if len(group) > 1 else len(group[0].prompt) - 1)
            common = _num_common(group[-1].prompt, row.prompt, limit)
            if common >= MIN_SHARED_TOKENS and (len(group) == 1 or 2 * common >= shared):
                group.append(row)
                shared = common
                continue
            yield shared if len(group) > 1 else 0, group
        group, shared = [row], 0
    if group:
        yield shared if len(group) > 1 else 0, group


def _num_common(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    return next((index for index in range(limit) if one[index] != other[index]), limit)


def _read_prefix(model: Any, group: Sequence[_Row], length: int) -> Any:
    """The keys and values of the first `length` tokens of all prompts of `group`; None if there is nothing to share."""
    if not length:
        return None
    ids = torch.tensor([group[0].prompt[:length]], device=device_of(model))
    cache = DynamicCache()  # without a config, so that windows of attention do not drop keys: masks restrict them
    layout = Layout(torch.arange(length, device=ids.device)[None])
    run(model, layout, input_ids=ids, position_ids=layout.query_positions, past_key_values=cache, use_cache=True)
    prefix = [(layer.keys, layer.values) for layer in cache.layers]
    shortest = min(group, key=lambda row: row.num_inputs(0))
    pairs_of_scores = zip(_score(model, [shortest], prefix), _score(model, [shortest], None), strict=True)
    difference = max(float(np.abs(a.log_probs - b.log_probs).max()) for (_, a), (_, b) in pairs_of_scores)
    return prefix if difference <= TOLERANCE else None


def _score(model: Any, rows: Sequence[_Row], prefix: Any) -> Iterator[tuple[int, Likelihood]]:
    """(number of the pair, its likelihood) of each continuation of `rows`; `prefix` precedes all of them."""
    num_cached = prefix[0][0].shape[2] if prefix else 0
    *arrays, where = _collate(rows, num_cached)
    ids, positions, part = (torch.from_numpy(array).to(device_of(model)) for array in arrays)
    hidden = _hidden(model, ids, positions, part, prefix).flatten(0, 1)
    targets = np.concatenate([one for row in rows for one in row.continuations])
    log_probs, is_best = _token_scores(model, hidden, torch.from_numpy(where), torch.from_numpy(targets))
    start = 0
    for row in rows:
        for number, continuation in zip(row.numbers, row.continuations, strict=True):
            tokens = slice(start, start + len(continuation))
            yield number, Likelihood(log_probs[tokens], bool(is_best[tokens].all()))
            start += len(continuation)


def _hidden(model: Any, ids: Tensor, positions: Tensor, part: Tensor, prefix: Any) -> Tensor:
    """The last hidden states, [rows, length, width]."""
    if prefix is None:
        if methods.of(model).pairs != "shared" or methods.of(model).equal_lengths:
            return torch.cat([_hidden_alone(model, *row) for row in zip(ids, part, strict=True)])
        return with_layout(model, ids, positions, part).hidden
    num_cached = prefix[0][0].shape[2]
    cache = DynamicCache()
    for index, (keys, values) in enumerate(prefix):
        cache.update(keys.expand(len(ids), -1, -1, -1), values.expand(len(ids), -1, -1, -1), index)
    layout = Layout(positions, part, num_cached)
    output = run(
        model, layout, input_ids=ids, position_ids=layout.query_positions, past_key_values=cache, use_cache=True
    )
    states: Tensor = output[0]
    return states


def _hidden_alone(model: Any, ids: Tensor, part: Tensor) -> Tensor:
    """The states of one row, read without its padding: [1, length, width]."""
    num_tokens = int((part >= 0).sum())
    states = alone(model, ids[None, :num_tokens]).hidden
    return torch.nn.functional.pad(states, (0, 0, 0, len(ids) - num_tokens))


def _collate(rows: Sequence[_Row], start: int) -> tuple[npt.NDArray[np.int64], ...]:
    """ids, positions and part [rows, length] without the first `start` tokens, and where each target is predicted."""
    size = (len(rows), max(row.num_inputs(start) for row in rows))
    ids, positions = np.zeros(size, np.int64), np.zeros(size, np.int64)
    part = np.full(size, -1, np.int64)  # 0: the prompt, k: its k-th continuation, -1: padding
    where = []
    for index, row in enumerate(rows):
        prompt = row.prompt[start:]
        end = len(prompt)
        ids[index, :end], positions[index, :end], part[index, :end] = prompt, np.arange(end), 0
        for number, continuation in enumerate(row.continuations):
            first, end = end, end + len(continuation) - 1
            ids[index, first:end], part[index, first:end] = continuation[:-1], number + 1
            positions[index, first:end] = len(prompt) + np.arange(end - first)
            where.append(index * size[1] + np.r_[len(prompt) - 1, first:end])
    return ids, positions, part, np.concatenate(where)


def _token_scores(
    model: Any, hidden: Tensor, where: Tensor, targets: Tensor
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """ln p of each target, and whether it is the most probable token. A state that predicts several is used once."""
    places, owner = where.unique(return_inverse=True)
    states = hidden[places.to(hidden.device)]
    log_probs, is_best = torch.zeros(len(where), dtype=torch.float64), torch.zeros(len(where), dtype=torch.bool)
    for part in logit_slices(model, len(places)):
        logits = answer_logits(model, states[part]).float()
        selected = ((owner >= part.start) & (owner < part.stop)).nonzero().squeeze(1)
        state, target = (owner[selected] - part.start).to(logits.device), targets[selected].to(logits.device)
        log_probs[selected] = (logits[state, target] - logits.logsumexp(-1)[state]).double().cpu()
        is_best[selected] = (logits.argmax(-1)[state] == target).cpu()
    return log_probs.numpy(), is_best.numpy()
