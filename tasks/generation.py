"""Answers from a causal language model: batched sampling with a key-value cache; log-probabilities of given answers.

Log-probabilities and values are collected while decoding, so that a rollout costs one forward pass per token and no
more; rows that have finished leave the batch; the vocabulary head is applied where an answer's token is predicted and
nowhere else.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from tasks.errors import BadInput, BadModel

Ids = Sequence[int] | npt.NDArray[np.integer[Any]]

LEAVE_SHARE = 0.25  # finished rows are taken out once they are this share of the batch: copying the cache is not free


@dataclass(frozen=True, slots=True)
class Generated:
    """Answers in the order of the prompts, on the CPU. Each answer holds its end token, if it came to one.

    log_probs[i], values[i]: float32 [len(answers[i])]; the log-probability of each token as it was drawn (at the
    sampling temperature, before top-p; at temperature 0 that of temperature 1), and the value of the state it was
    drawn in.
    """

    answers: list[list[int]]
    log_probs: list[Tensor]
    values: list[Tensor] | None
    finished: list[bool]


@dataclass(frozen=True, slots=True)
class Answers:
    """Prompts with their answers, padded on the right, so that causal attention needs no mask.

    ids: [rows, length]; where: [num_tokens], the flat position in `ids` that predicts each answer token;
    targets, owner: [num_tokens], the answer tokens and the answer each is in; lengths, ends: [answers], the tokens of
    each answer and the flat position of its last one. Several answers in one row need `mask`, additive,
    [rows, 1, length, length], and `positions`, [rows, length].
    """

    ids: Tensor
    where: Tensor
    targets: Tensor
    owner: Tensor
    lengths: Tensor
    ends: Tensor
    mask: Tensor | None = None
    positions: Tensor | None = None

    def sum_by_answer(self, values: Tensor) -> Tensor:
        """Sum a number per answer token, [num_tokens], over each answer: [answers]."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.owner, values)


def collate(sequences: Sequence[Ids], prompt_lengths: Sequence[int], pad_id: int, device: Any = "cpu") -> Answers:
    """Pad sequences (a prompt and its answer each) and note where the answers are. No prompt may be empty."""
    ids, ends = padded(sequences, pad_id)
    column = torch.arange(ids.shape[1])
    starts = torch.as_tensor(prompt_lengths, dtype=torch.long)[:, None]
    is_answer = (column >= starts) & (column < ends[:, None])
    flat = is_answer.flatten().nonzero().squeeze(1)
    last = torch.arange(len(ids)) * ids.shape[1] + ends - 1
    tensors = (ids, flat - 1, ids.flatten()[flat], flat // ids.shape[1], is_answer.sum(1), last)
    return Answers(*(tensor.to(device) for tensor in tensors))


def answer_states(model: Any, answers: Answers) -> Tensor:
    """The trunk's last hidden state at each position that predicts an answer token: [num_tokens, hidden_size]."""
    return _all_states(model, answers)[answers.where]


def answer_scores(model: Any, answers: Answers) -> Tensor:
    """A reward model's number for each answer, read from its last token: float32 [answers]."""
    return _scores(model, _all_states(model, answers)[answers.ends])


def _all_states(model: Any, answers: Answers) -> Tensor:
    """[rows * length, hidden_size]."""
    prompt, cache, count = _learned(model, len(answers.ids))
    inputs: dict[str, Any] = {"input_ids": answers.ids}
    inputs |= {"attention_mask": answers.mask, "position_ids": answers.positions}
    if count and answers.mask is not None:
        raise BadModel(
            "a model behind learned prompts (prompt_tuning, p_tuning, prefix_tuning) can be trained by sft, but not by "
            "the stages after it. Use adapter lora or ia3 there."
        )
    if prompt is not None:
        inputs = {"inputs_embeds": _behind(prompt, model, answers.ids)}
    if cache is not None:
        inputs |= {"past_key_values": cache, "use_cache": True}
    hidden = _trunk(model)(**{name: value for name, value in inputs.items() if value is not None})
    return hidden[:, hidden.shape[1] - answers.ids.shape[1] :].flatten(0, 1)


def _scores(model: Any, states: Tensor) -> Tensor:
    head = _base(model).score
    scores: Tensor = head(states.to(next(head.parameters()).dtype)).squeeze(-1).float()
    return scores


def answer_logits(model: Any, states: Tensor) -> Tensor:
    """The vocabulary head on some hidden states: [..., vocab_size]."""
    logits: Tensor = _base(model).get_output_embeddings()(states)
    return logits


def token_log_probs(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(target) of each row of `logits` [num_tokens, vocab_size], float32 [num_tokens]; keeps the gradient."""
    logits = logits.float() if temperature == 1 else logits.float() / temperature
    return -F.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def reward_scores(model: Any, sequences: Sequence[Ids], *, pad_id: int, batch_size: int = 256) -> Tensor:
    """A reward model's number for each sequence (a prompt and its answer), float32 [sequences] on the CPU.

    Equals the logits of `AutoModelForSequenceClassification` (num_labels 1) where padding is on the right.
    """
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    result = torch.zeros(len(sequences))
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate(
                [sequences[row] for row in rows], [len(sequences[row]) for row in rows], pad_id, _device(model)
            )
            result[rows] = answer_scores(model, batch).cpu()
    return result


def padded(sequences: Sequence[Ids], pad_id: int, side: str = "right") -> tuple[Tensor, Tensor]:
    """ids [rows, length] padded on one side, and the length of each row, [rows]; both int64."""
    rows = [torch.from_numpy(np.array(ids, dtype=np.int64)) for ids in sequences]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id, padding_side=side)
    return ids, torch.tensor([len(row) for row in rows])


@torch.no_grad()
def log_probabilities(
    model: Any,
    sequences: Sequence[Ids],
    prompt_lengths: Sequence[int],
    *,
    pad_id: int = 0,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> list[Tensor]:
    """log p of every answer token, one float32 tensor on the CPU per sequence, in the order given; no gradient."""
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    result: list[Tensor] = [torch.empty(0)] * len(sequences)
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([sequences[r] for r in rows], [prompt_lengths[r] for r in rows], pad_id, _device(model))
            logits = answer_logits(model, answer_states(model, batch))
            flat = token_log_probs(logits, batch.targets, temperature).cpu()
            found = torch.split(flat, batch.lengths.tolist())
            for row, tokens in zip(rows, found, strict=True):
                result[row] = tokens
    return result


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
    chances: Tensor | None = None,
) -> Generated:
    """Sample one answer for each prompt, until a token of `end_ids` or `max_new_tokens` or the model's context is full.

    temperature 0 takes the likeliest token; top_p < 1 samples from the smallest set of tokens with that probability
    (arXiv:1904.09751). `on_token(row, id)` hears each token as it is drawn. One random number per prompt and position
    is drawn from `generator` (on the CPU) at the start, so that batching changes no answer; or they are given, as
    `chances` [prompts, max_new_tokens]. Raises BadInput for a prompt that is empty or fills the context.
    """
    if chances is None:
        size = (len(prompts), max_new_tokens)
        chances = torch.rand(size, generator=generator) if temperature > 0 else torch.zeros(size)
    record = _Record(len(prompts), value_head is not None, on_token)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = _Batch(model, prompts, rows, pad_id)
            for step in range(min(max_new_tokens, _room(model, [len(prompts[row]) for row in rows]))):
                states = batch.advance()
                chance = chances[batch.rows, step].to(states.device)
                tokens, log_probs = sample(answer_logits(model, states), chance, temperature, top_p)
                values = value_head(states).squeeze(-1) if value_head is not None else None
                record.add(batch, tokens, log_probs, values, end_ids)
                if not batch.append(tokens, record.finished):
                    break
    return record.generated()


def sample(logits: Tensor, chance: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Tokens [rows] drawn from logits [rows, vocab_size] by uniform `chance` [rows] in [0, 1), and their log p."""
    logits = logits.float() if temperature in (0, 1) else logits.float() / temperature
    log_p = F.log_softmax(logits, dim=-1)
    if temperature == 0:
        tokens = log_p.argmax(-1)
    else:
        p = log_p.exp()
        total = (nucleus(p, top_p) if top_p < 1 else p).cumsum(-1)
        below_all = torch.nextafter(total[:, -1], torch.zeros_like(chance))
        point = torch.minimum(chance * total[:, -1], below_all)
        tokens = torch.searchsorted(total, point[:, None], right=True).squeeze(1)
    return tokens, log_p.gather(1, tokens[:, None]).squeeze(1)


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """Probabilities [rows, vocab_size] with all but the likeliest tokens, up to `top_p` together, set to 0."""
    ordered, index = p.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(p).scatter(-1, index, ordered.masked_fill(before >= top_p, 0.0))


class _Batch:
    """Rows that are being decoded, padded on the left; `rows` are their numbers among all prompts."""

    def __init__(self, model: Any, prompts: Sequence[Ids], rows: list[int], pad_id: int) -> None:
        device = _device(model)
        ids, lengths = padded([prompts[row] for row in rows], pad_id, side="left")
        self.rows, self._ids = torch.tensor(rows), ids.to(device)
        seen = torch.arange(ids.shape[1]) >= ids.shape[1] - lengths[:, None]
        self._prompt, cache, count = _learned(model, len(rows))
        self._seen = F.pad(seen, (count, 0), value=True).to(device)
        self._positions = (self._seen.cumsum(1) - 1).clamp(min=0)
        if cache is not None:
            self._positions = self._positions[:, count:]
        self._model, self._trunk = model, _trunk(model)
        self._cache = DynamicCache(config=_base(model).config) if cache is None else cache

    def advance(self) -> Tensor:
        """Read the newest tokens; the hidden state of each row's last one, [rows, hidden_size]."""
        inputs: dict[str, Any] = {"input_ids": self._ids}
        if self._prompt is not None:
            inputs, self._prompt = {"inputs_embeds": _behind(self._prompt, self._model, self._ids)}, None
        return self._trunk(
            **inputs,
            attention_mask=self._seen,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )[:, -1]

    def append(self, tokens: Tensor, finished: list[bool]) -> bool:
        """Append one token to each row; whether any row goes on."""
        self._ids, self._positions = tokens[:, None], self._positions[:, -1:] + 1
        self._seen = F.pad(self._seen, (0, 1), value=True)
        going = torch.tensor([not finished[row] for row in self.rows.tolist()])
        if len(going) - int(going.sum()) >= LEAVE_SHARE * len(going) and going.any():
            self._keep(going.nonzero().squeeze(1))
        return bool(going.any())

    def _keep(self, index: Tensor) -> None:
        self.rows = self.rows[index]
        index = index.to(self._ids.device)
        self._ids, self._positions, self._seen = self._ids[index], self._positions[index], self._seen[index]
        self._cache.batch_select_indices(index)


class _Record:
    """What has been drawn for each prompt so far."""

    def __init__(self, num_prompts: int, with_values: bool, on_token: Callable[[int, int], None] | None) -> None:
        self.answers: list[list[int]] = [[] for _ in range(num_prompts)]
        self.log_probs: list[list[float]] = [[] for _ in range(num_prompts)]
        self.values: list[list[float]] | None = [[] for _ in range(num_prompts)] if with_values else None
        self.finished = [False] * num_prompts
        self._on_token = on_token

    def add(self, batch: _Batch, tokens: Tensor, log_probs: Tensor, values: Tensor | None, ends: Sequence[int]) -> None:
        numbers = values.tolist() if values is not None else [0.0] * len(tokens)
        drawn = zip(batch.rows.tolist(), tokens.tolist(), log_probs.tolist(), numbers, strict=True)
        for row, token, log_prob, value in drawn:
            if self.finished[row]:
                continue
            self.answers[row].append(token)
            self.log_probs[row].append(log_prob)
            if self.values is not None:
                self.values[row].append(value)
            self.finished[row] = token in ends
            if self._on_token is not None:
                self._on_token(row, token)

    def generated(self) -> Generated:
        values = [torch.tensor(row) for row in self.values] if self.values is not None else None
        return Generated(self.answers, [torch.tensor(row) for row in self.log_probs], values, self.finished)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside the block, as it was before after it."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _room(model: Any, lengths: list[int]) -> int:
    """How many tokens fit behind the longest of these prompts."""
    if 0 in lengths:
        raise BadInput("a prompt is empty: it must hold at least one token")
    context = getattr(_base(model).config, "max_position_embeddings", None)
    if context is None:
        return sys.maxsize
    context -= _learned(model, 1)[2]
    if max(lengths) >= context:
        raise BadInput(f"a prompt of {max(lengths)} tokens fills the model's context of {context}: shorten it")
    return int(context - max(lengths))


def _trunk(model: Any) -> Callable[..., Tensor]:
    """The model below its vocabulary head, as a function from ids to hidden states [rows, length, hidden_size]."""
    base = _base(model)
    config = base.config
    if getattr(config, "final_logit_softcapping", None) or getattr(config, "logit_scale", None):
        raise BadModel(f"{type(base).__name__} scales its logits after the head, which is not supported here")
    trunk = base.base_model

    def states(**inputs: Any) -> Tensor:
        hidden: Tensor = trunk(**{"use_cache": False, **inputs}).last_hidden_state
        return hidden

    return states


def _base(model: Any) -> Any:
    """The Hugging Face model inside a PEFT model, with the adapters that live in its layers, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _learned(model: Any, rows: int) -> tuple[Tensor | None, Any, int]:
    """What prompt or prefix tuning puts before each of `rows` texts: embeddings, or keys and values; its length."""
    adapter = getattr(model, "active_peft_config", None)
    if adapter is None or not adapter.is_prompt_learning:
        return None, None, 0
    prompt, count = model.get_prompt(rows), int(adapter.num_virtual_tokens)
    return (prompt, None, count) if isinstance(prompt, Tensor) else (None, prompt, count)


def _behind(prompt: Tensor, model: Any, ids: Tensor) -> Tensor:
    """Embeddings of `ids` behind those of a learned prompt."""
    embedded = _base(model).get_input_embeddings()(ids)
    return torch.cat((prompt.to(embedded.dtype), embedded), 1)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
