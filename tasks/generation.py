"""Text generation with a causal language model: batched sampling with a key-value cache.

Log-probabilities and values are collected while decoding, so that a rollout of PPO costs one forward pass per token.
Complete rows are removed from the batch, and the vocabulary head is applied to the last position only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from tasks import peft
from tasks.answers import (
    Ids,
    answer_logits,
    batches_by_length,
    device_of,
    evaluating,
    pad,
)
from tasks.causal import methods, own_generation
from tasks.causal.backbone import context_length, embed_after, run, soft_prompt
from tasks.errors import BadInput

MIN_COMPLETE_SHARE = 0.25  # of a batch, before its complete rows are removed: copying the cache costs time too


@dataclass(frozen=True, slots=True)
class Generated:
    """Answers in the order of the prompts, on the CPU. A finished answer includes its end token.

    log_probs[i]: float32 [len(answers[i])], the log-probability with which each token was drawn: at the sampling
    temperature, before top-p; at temperature 0 that of temperature 1. values[i]: float32 [len(answers[i])], the value
    of the state that each token was drawn in. finished[i]: whether the answer has an end token.
    """

    answers: list[list[int]]
    log_probs: list[Tensor]
    values: list[Tensor] | None
    finished: list[bool]


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Ids],
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    value_head: nn.Module | None = None,
    on_token: Callable[[int, int], None] | None = None,
    batch_size: int = 256,
    random_numbers: Tensor | None = None,
    on_answers: Callable[[int], object] | None = None,
) -> Generated:
    """Sample one answer for each prompt, until a token of `end_ids`, `max_new_tokens`, or the end of the context.

    temperature 0 takes the most probable token. top_p < 1 samples from the smallest set of tokens whose probabilities
    sum to at least top_p (nucleus sampling, arXiv:1904.09751). `on_token(row, id)` is called for each token drawn.
    random_numbers: float32 [prompts, max_new_tokens], uniform in [0, 1); drawn from `generator` if not given.
    `on_answers(count)` is called when `count` more answers are complete. Long prompts are decoded in smaller batches.
    Raises BadInput for a prompt that is empty or fills the context.
    """
    if random_numbers is None:
        # One number per prompt and position, all drawn on the CPU before decoding starts: the answer to a prompt then
        # depends neither on the other prompts of its batch nor on the device.
        size = (len(prompts), max_new_tokens)
        random_numbers = torch.rand(size, generator=generator) if temperature > 0 else torch.zeros(size)
    lengths = [len(prompt) for prompt in prompts]
    room = [min(max_new_tokens, free) for free in _free_context(model, lengths)]
    record = _Record(room, value_head is not None, on_token)

    def draw(rows: Tensor, step: int, logits: Tensor, states: Tensor) -> Tensor:
        uniform = random_numbers[rows, step].to(states.device)
        tokens, log_probs = sample(logits, uniform, temperature, top_p)
        values = value_head(states).squeeze(-1) if value_head is not None else None
        record.add(rows, tokens, log_probs, values, end_ids)
        return tokens

    with evaluating(model):
        for rows in batches_by_length(lengths, batch_size, max_new_tokens):
            if methods.of(model).generation == "model":
                _decode_by_model(model, prompts, rows, pad_id, draw, record, room)
            else:
                batch = _DecodingBatch(model, prompts, rows, pad_id)
                for step in range(max(room[row] for row in rows)):
                    states = batch.advance()
                    tokens = draw(batch.rows, step, answer_logits(model, states), states)
                    if not batch.append(tokens, record.complete):
                        break
            if on_answers is not None:
                on_answers(len(rows))
    return record.generated()


def sample(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row of `logits` [rows, vocab_size] by inverse transform sampling.

    uniform: [rows], random numbers in [0, 1). Returns tokens [rows] and their log-probabilities [rows].
    """
    logits = logits.float() if temperature in (0, 1) else logits.float() / temperature
    log_p = F.log_softmax(logits, dim=-1)
    if temperature == 0:
        tokens = log_p.argmax(-1)
    else:
        p = log_p.exp()
        cumulative = (nucleus(p, top_p) if top_p < 1 else p).cumsum(-1)
        # The sum of all probabilities is below 1 (with top-p, or by rounding), so the number is scaled to it. It must
        # stay below the last sum: otherwise searchsorted would return vocab_size, or a token with probability 0.
        below_total = torch.nextafter(cumulative[:, -1], torch.zeros_like(uniform))
        point = torch.minimum(uniform * cumulative[:, -1], below_total)
        tokens = torch.searchsorted(cumulative, point[:, None], right=True).squeeze(1)
    return tokens, log_p.gather(1, tokens[:, None]).squeeze(1)


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """Probabilities [rows, vocab_size] with all but the most probable tokens, up to a sum of `top_p`, set to 0."""
    ordered, index = p.sort(dim=-1, descending=True)
    sum_before = ordered.cumsum(-1) - ordered  # a token stays if the ones before it do not reach top_p
    return torch.zeros_like(p).scatter(-1, index, ordered.masked_fill(sum_before >= top_p, 0.0))


def _decode_by_model(
    model: Any, prompts: Sequence[Ids], rows: Sequence[int], pad_id: int, draw: Callable[..., Tensor],
    record: "_Record", room: Sequence[int],
) -> None:  # fmt: skip
    """Decode `rows` by the model's own `generate`, those with prompts of one length at a time."""
    in_order = sorted(rows, key=lambda row: len(prompts[row]))
    key = (lambda row: row) if methods.of(model).one_prompt else (lambda row: len(prompts[row]))
    for _, together in groupby(in_order, key):
        group = list(together)
        numbers, steps = torch.tensor(group), count()

        def draw_next(
            logits: Tensor, states: Tensor, numbers: Tensor = numbers, group: list[int] = group, steps: Any = steps
        ) -> tuple[Tensor, bool]:
            tokens = draw(numbers, next(steps), logits, states)
            return tokens, all(record.complete[row] for row in group)

        ids, _ = pad([prompts[row] for row in group], pad_id)
        own_generation.decode(model, ids.to(device_of(model)), max(room[row] for row in group), pad_id, draw_next)


class _DecodingBatch:
    """Rows that are decoded together; `rows` are their numbers among all prompts.

    Prompts are padded on the left, so that the next token of every row is in the same column. Padding must not be
    attended to, and positions are counted from the first real token of each row.
    """

    def __init__(self, model: Any, prompts: Sequence[Ids], rows: list[int], pad_id: int) -> None:
        device = device_of(model)
        ids, lengths = pad([prompts[row] for row in rows], pad_id, side="left")
        self.rows, self._new_ids = torch.tensor(rows), ids.to(device)
        is_token = torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]
        self._prompt, cache, num_virtual = soft_prompt(model, len(rows))
        self._attention_mask = F.pad(is_token, (num_virtual, 0), value=True).to(device)
        self._positions = (self._attention_mask.cumsum(1) - 1).clamp(min=0)
        if cache is not None:  # prefix tuning: the virtual tokens are in the cache already and have no inputs
            self._positions = self._positions[:, num_virtual:]
        self._model, self._last_position = model, context_length(model) - 1
        self._cache = DynamicCache(config=peft.base_model(model).config) if cache is None else cache
        # The states of some recurrent layers cannot be divided: then complete rows stay in the batch.
        self._can_select = all(hasattr(layer, "batch_select_indices") for layer in self._cache.layers)

    def advance(self) -> Tensor:
        """Process the tokens that are not in the cache yet; return each row's last hidden state [rows, hidden_size]."""
        inputs: dict[str, Any] = {"input_ids": self._new_ids}
        if self._prompt is not None:  # only once: from then on, the soft prompt is in the cache
            inputs, self._prompt = {"inputs_embeds": embed_after(self._prompt, self._model, self._new_ids)}, None
        output = run(
            self._model,
            None,
            **inputs,
            attention_mask=self._attention_mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        states: Tensor = output[0][:, -1]
        return states

    def append(self, tokens: Tensor, complete: list[bool]) -> bool:
        """Append one token to each row; return whether any row is not complete."""
        # A row that is complete may stay in the batch for some steps. Its positions must remain within the context.
        self._new_ids = tokens[:, None]
        self._positions = (self._positions[:, -1:] + 1).clamp(max=self._last_position)
        self._attention_mask = F.pad(self._attention_mask, (0, 1), value=True)
        incomplete = torch.tensor([not complete[row] for row in self.rows.tolist()])
        num_complete = len(incomplete) - int(incomplete.sum())
        if self._can_select and num_complete >= MIN_COMPLETE_SHARE * len(incomplete) and incomplete.any():
            self._select(incomplete.nonzero().squeeze(1))
        return bool(incomplete.any())

    def _select(self, index: Tensor) -> None:
        """Remove all rows but those of `index`, from the cache too."""
        self.rows = self.rows[index]
        index = index.to(self._new_ids.device)
        self._new_ids, self._positions = self._new_ids[index], self._positions[index]
        self._attention_mask = self._attention_mask[index]
        self._cache.batch_select_indices(index)


class _Record:
    """What was drawn for each prompt so far. room: the maximum number of tokens of each answer."""

    def __init__(self, room: list[int], with_values: bool, on_token: Callable[[int, int], None] | None) -> None:
        num_prompts = len(room)
        self.answers: list[list[int]] = [[] for _ in range(num_prompts)]
        self.log_probs: list[list[float]] = [[] for _ in range(num_prompts)]
        self.values: list[list[float]] | None = [[] for _ in range(num_prompts)] if with_values else None
        self.finished = [False] * num_prompts
        self.complete = [False] * num_prompts  # finished, or without room for another token
        self._room, self._on_token = room, on_token

    def add(
        self,
        rows: Tensor,
        tokens: Tensor,
        log_probs: Tensor,
        values: Tensor | None,
        end_ids: Sequence[int],
    ) -> None:
        """Add one token for each of `rows`. Those that are complete already are ignored."""
        value_list = values.tolist() if values is not None else [0.0] * len(tokens)
        columns = zip(rows.tolist(), tokens.tolist(), log_probs.tolist(), value_list, strict=True)
        for row, token, log_prob, value in columns:
            if self.complete[row]:
                continue
            self.answers[row].append(token)
            self.log_probs[row].append(log_prob)
            if self.values is not None:
                self.values[row].append(value)
            self.finished[row] = token in end_ids
            self.complete[row] = self.finished[row] or len(self.answers[row]) >= self._room[row]
            if self._on_token is not None:
                self._on_token(row, token)

    def generated(self) -> Generated:
        """Everything as tensors."""
        values = [torch.tensor(row) for row in self.values] if self.values is not None else None
        return Generated(self.answers, [torch.tensor(row) for row in self.log_probs], values, self.finished)


def _free_context(model: Any, prompt_lengths: list[int]) -> list[int]:
    """The number of tokens that fit after each of these prompts. Raises BadInput if there is no room after one."""
    if 0 in prompt_lengths:
        raise BadInput("a prompt is empty; it must contain at least one token")
    context = context_length(model) - peft.num_virtual_tokens(model)
    if max(prompt_lengths, default=0) >= context:
        raise BadInput(
            f"a prompt of {max(prompt_lengths)} tokens fills the model's context of {context} tokens: no answer fits. "
            "Shorten the prompt."
        )
    return [context - length for length in prompt_lengths]
