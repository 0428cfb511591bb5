"""The engine: answers many requests at once with one model (continuous batching).

In each round, it admits waiting requests, reads a part of the prompts of new ones, and draws one token for every answer
that is being written, all in one forward pass. An answer that ends leaves the batch at once, and another request takes
its place. The beginning of a prompt that an earlier text shares is not computed again.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tasks.causal import methods
from tasks.causal.backbone import context_length
from tasks.serving import exclusive
from tasks.serving.forward import Forward, affordable_tokens
from tasks.serving.key_values import MIN_SHARED, PrefixStore, Stored, common_length
from tasks.serving.params import EngineParams
from tasks.serving.requests import Event, FinishReason, Request, TokenLogProb
from tasks.serving.sampling import Sampler, prompt_log_probs

MAX_PADDING = 2  # prompts whose lengths differ by a larger factor are not read together
ALWAYS_TOGETHER = 32  # tokens: prompts up to this length are
IDLE_SECONDS = 60.0  # without a request, after which the memory of the rows is given back


class Full(Exception):
    """The queue is full."""


class _Row:
    """One answer in the batch."""

    __slots__ = ("is_complete", "num_read", "prompt", "request", "tokens")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.tokens = np.array(request.ids, np.int64)
        self.num_read = 0  # tokens of the prompt whose keys and values are there
        self.prompt: list[TokenLogProb] = []
        self.is_complete = False

    @property
    def length(self) -> int:
        """The number of tokens whose keys and values are there."""
        return self.num_read + max(0, len(self.request.answer) - 1)

    @property
    def room(self) -> int:
        """The number of positions that this row may need."""
        return len(self.request.ids) + self.request.max_tokens


class Engine:
    """Answers requests in a thread of its own.

    on_round: called after each round, so that a server can deliver the events of the round at once. `counts` are the
    totals that /metrics shows.
    """

    def __init__(
        self, model: Any, params: EngineParams, pad_id: int = 0, on_round: Callable[[], object] | None = None
    ) -> None:
        self.model, self.params = model, params
        self.context = context_length(model)
        self._on_round = on_round or (lambda: None)
        self._forward = Forward(model)
        self.is_batched = methods.of(model).generation == "cached" and params.is_batched
        self.num_virtual = self._forward.num_virtual
        self.vocab_size = int(self._forward.config.vocab_size)
        self._pad_id = pad_id
        self.max_positions = self.context
        if self.is_batched:
            self.max_positions = params.max_cache_tokens or affordable_tokens(self._forward, params.memory_share)
        self._prefixes = PrefixStore(self.max_positions // 4 if params.share_prefixes else 0)
        self._rows: list[_Row] = []  # those that are being decoded first
        self._num_decoding = 0
        self._sampler: Sampler | None = None
        self._waiting: deque[Request] = deque()
        self._condition = threading.Condition()
        self._is_closed = False
        self.counts = dict.fromkeys(
            ("requests", "prompt_tokens", "shared_tokens", "answer_tokens", "rounds", "canceled", "rejected"), 0
        )
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_running(self) -> int:
        """The number of requests in the batch."""
        return len(self._rows)

    @property
    def num_waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._waiting)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, *requests: Request) -> None:
        """Add requests, all or none. Raises Full if more than params.max_queue would wait."""
        with self._condition:
            free = self.params.max_batch - len(self._rows) if self.is_batched else 0
            if self._is_closed or len(self._waiting) + len(requests) > self.params.max_queue + max(0, free):
                self.counts["rejected"] += len(requests)
                raise Full
            for request in requests:
                request.arrival = time.monotonic()
            self._waiting.extend(requests)
            self.counts["requests"] += len(requests)
            self._condition.notify()

    def close(self, seconds: float = 10.0) -> None:
        """End all requests and the thread."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        with torch.inference_mode():
            while True:
                with self._condition:
                    while not (self._waiting or self._rows or self._is_closed):
                        if not self._condition.wait(IDLE_SECONDS):
                            self._forward.key_values.release_all()
                    if self._is_closed:
                        break
                try:
                    self._round()
                except Exception:
                    # The requests of this round cannot be continued; the next ones can.
                    traceback.print_exc(file=sys.stderr)
                    self._fail_all("the engine failed on this request; its log states why")
                self._on_round()
        self._fail_all("the server stops")
        self._on_round()

    def _round(self) -> None:
        self.counts["rounds"] += 1
        self._remove_ended()
        if not self.is_batched:
            if self._waiting:
                self._answer_alone(self._waiting.popleft())
            return
        self._admit()
        if len(self._rows) > self._num_decoding:
            self._read_prompts()
        if self._num_decoding:
            self._decode()

    def _answer_alone(self, request: Request) -> None:
        row = _Row(request)
        self._rows = [row]
        self.counts["prompt_tokens"] += len(request.ids)
        if request.num_prompt_top is not None:
            row.prompt = exclusive.prompt(self.model, request)
        if not self._end_without_tokens(row):
            exclusive.decode(self.model, request, self._pad_id, lambda drawn: self._append(row, drawn, True))
        self._rows = []

    # Admission

    def _admit(self) -> None:
        """Move waiting requests into free rows, in their order, as long as the keys and values fit."""
        admitted: list[_Row] = []
        while self._waiting and len(self._rows) < self.params.max_batch:
            row = _Row(self._waiting[0])
            if self._rows and not self._fits(row):
                return
            shared = max((common_length(row.tokens, other.tokens) for other in admitted), default=0)
            length, stored, source = self._find_prefix(row)
            if shared >= MIN_SHARED and shared > length and shared > half_length(row):
                return  # in the next round, it can copy what is computed in this one
            self._waiting.popleft()
            index = len(self._rows)
            room = max(other.room for other in (*self._rows, row)) + self._forward.num_virtual
            used = max((other.length for other in self._rows), default=0) + self._forward.num_virtual
            self._forward.key_values.reserve(_rounded(index + 1, self.params.max_batch), room, index, used)
            self._forward.write_soft_prompt(index)
            if length:
                # Keys of a soft prompt are the same in every row.
                end = length + self._forward.num_virtual
                if source is not None:
                    self._forward.key_values.move(source, index, end)
                elif stored is not None:
                    self._forward.key_values.write(index, stored, end)
            row.num_read = row.request.num_shared = length
            self.counts["prompt_tokens"] += len(row.tokens)
            self.counts["shared_tokens"] += length
            self._rows.append(row)
            admitted.append(row)

    def _fits(self, row: _Row) -> bool:
        longest = max(other.room for other in (*self._rows, row)) + self._forward.num_virtual
        return longest * (len(self._rows) + 1) <= self.max_positions

    def _find_prefix(self, row: _Row) -> tuple[int, Stored | None, int | None]:
        """The longest known beginning of a prompt: its length, and where its keys are (stored, or in another row)."""
        if not self.params.share_prefixes or row.request.num_prompt_top is not None:
            return 0, None, None
        length, stored = self._prefixes.find(row.tokens)
        source = None
        for index, other in enumerate(self._rows):
            common = min(common_length(row.tokens, other.tokens), other.num_read, len(row.tokens) - 1)
            if common > length and common >= MIN_SHARED:
                length, stored, source = common, None, index
        return length, stored, source

    # Prompts

    def _read_prompts(self) -> None:
        """Read the next part of the prompts of the first rows that are not decoded yet."""
        first, batch, sizes = self._num_decoding, list[_Row](), list[int]()
        for row in self._rows[first:]:
            size = min(len(row.tokens) - row.num_read, self.params.prompt_tokens_per_round)
            longest = max([size, *sizes])
            is_far = longest > ALWAYS_TOGETHER and longest > MAX_PADDING * min([size, *sizes])
            if batch and (is_far or longest * (len(batch) + 1) > self.params.prompt_tokens_per_round):
                break
            batch.append(row)
            sizes.append(size)
        width = max(sizes)
        self._reserve(first + len(batch), max(row.num_read for row in batch) + width)
        ids = [
            [*row.tokens[row.num_read : row.num_read + size].tolist(), *[self._pad_id] * (width - size)]
            for row, size in zip(batch, sizes, strict=True)
        ]
        states = self._forward.states(first, ids, [row.num_read for row in batch])
        for index, (row, size) in enumerate(zip(batch, sizes, strict=True)):
            if row.request.num_prompt_top is not None:
                self._add_prompt_log_probs(row, states[index, :size])
            row.num_read += size
        complete = [index for index, row in enumerate(batch) if row.num_read == len(row.tokens)]
        if complete:
            last = states[complete, [sizes[index] - 1 for index in complete]]
            self._begin_answers([batch[index] for index in complete], last)

    def _add_prompt_log_probs(self, row: _Row, states: torch.Tensor) -> None:
        targets = row.tokens[row.num_read + 1 : row.num_read + 1 + len(states)].tolist()
        if not row.prompt:
            row.prompt = [TokenLogProb(int(row.tokens[0]), float("nan"))]
        if targets:
            logits = self._forward.logits(states[: len(targets)])
            row.prompt += prompt_log_probs(logits, targets, row.request.num_prompt_top or 0)

    def _begin_answers(self, rows: list[_Row], states: torch.Tensor) -> None:
        """Draw the first token of rows whose prompts are read, and move them to those that are decoded."""
        drawn = Sampler([row.request for row in rows]).draw(self._forward.logits(states))
        for row, token in zip(rows, drawn, strict=True):
            index = self._rows.index(row)
            if index != self._num_decoding:
                self._swap(index, self._num_decoding)
            self._num_decoding += 1
            if not self._end_without_tokens(row):
                self._append(row, token)
        self._sampler = None
        self._remove_ended()

    # Decoding

    def _decode(self) -> None:
        rows = self._rows[: self._num_decoding]
        longest = max(row.length for row in rows) + 1
        self._reserve(len(rows), longest)
        ids = [[row.request.answer[-1]] for row in rows]
        states = self._forward.states(0, ids, [row.length for row in rows])
        if self._sampler is None:
            self._sampler = Sampler([row.request for row in rows])
        for row, token in zip(rows, self._sampler.draw(self._forward.logits(states[:, -1])), strict=True):
            self._append(row, token)
        self._remove_ended()

    def _append(self, row: _Row, drawn: TokenLogProb, is_alone: bool = False) -> bool:
        """Add a token to an answer and report it; return whether the answer is complete."""
        request = row.request
        request.answer.append(drawn.token)
        self.counts["answer_tokens"] += 1
        is_end = drawn.token in request.end_ids
        text = request.text.add(drawn.token) if not is_end else ""
        reason: FinishReason | None = None
        if is_end or request.text.is_stopped:
            reason = "stop"
        elif len(request.answer) >= request.max_tokens:
            reason = "length"
        elif request.is_canceled:
            reason = "canceled"
        elif time.monotonic() > request.deadline:
            reason = "timeout"
        if reason:
            if is_end:
                request.text.ids.append(drawn.token)
            text += request.text.finish(request.end_ids)
        prompt, row.prompt = row.prompt or None, []
        tokens = [drawn] if request.num_top is not None else ()
        row.is_complete = reason is not None
        self.counts["canceled"] += reason == "canceled"
        request.on_event(request, Event(text, tokens, reason, prompt))
        if is_alone:
            self._on_round()
        return row.is_complete

    def _end_without_tokens(self, row: _Row) -> bool:
        """End a request for no tokens, which only asks for the log-probabilities of its prompt."""
        if row.request.max_tokens == 0:
            row.is_complete = True
            row.request.on_event(row.request, Event("", (), "length", row.prompt or None))
        return row.is_complete

    # Ends

    def _remove_ended(self) -> None:
        """Remove complete and canceled answers from the batch, and canceled requests from the queue."""
        for request in [request for request in self._waiting if _is_void(request)]:
            self._waiting.remove(request)
            self._end_early(request)
        for index in range(len(self._rows) - 1, -1, -1):
            row = self._rows[index]
            if not row.is_complete and _is_void(row.request):
                self._end_early(row.request)
                row.is_complete = True
            if row.is_complete:
                self._remove(index)

    def _end_early(self, request: Request) -> None:
        self.counts["canceled"] += request.is_canceled
        reason: FinishReason = "canceled" if request.is_canceled else "timeout"
        request.on_event(request, Event(request.text.finish(), (), reason))

    def _remove(self, index: int) -> None:
        """Take a row out; the last rows of each kind fill the gap."""
        row = self._rows[index]
        self._sampler = None
        if self.params.share_prefixes and row.length >= MIN_SHARED:
            tokens = np.array([*row.request.ids, *row.request.answer], np.int64)[: row.length]
            if not self._prefixes.is_known(tokens):
                self._prefixes.add(tokens, self._forward.key_values.read(index, row.length + self._forward.num_virtual))
        if index < self._num_decoding:
            self._move(self._num_decoding - 1, index)
            self._num_decoding -= 1
            index = self._num_decoding
        self._move(len(self._rows) - 1, index)
        self._rows.pop()

    def _move(self, source: int, target: int) -> None:
        if source != target:
            row = self._rows[target] = self._rows[source]
            self._forward.key_values.move(source, target, row.length + self._forward.num_virtual)

    def _swap(self, one: int, other: int) -> None:
        length = max(self._rows[one].length, self._rows[other].length) + self._forward.num_virtual
        self._forward.key_values.swap(one, other, length)
        self._rows[one], self._rows[other] = self._rows[other], self._rows[one]

    def _reserve(self, rows: int, positions: int) -> None:
        used = max(row.length for row in self._rows) + self._forward.num_virtual
        self._forward.key_values.reserve(rows, positions + self._forward.num_virtual, len(self._rows), used)

    def _fail_all(self, why: str) -> None:
        rows, self._rows, self._num_decoding, self._sampler = self._rows, [], 0, None
        with self._condition:
            waiting = list(self._waiting)
            self._waiting.clear()
        for request in [*(row.request for row in rows), *waiting]:
            request.on_event(request, Event("", (), "error", error=why))


def half_length(row: _Row) -> int:
    """Half of the length of a prompt: waiting a round for less than that does not pay."""
    return len(row.tokens) // 2


def _is_void(request: Request) -> bool:
    return request.is_canceled or time.monotonic() > request.deadline


def _rounded(rows: int, most: int) -> int:
    """The next power of two, so that room for rows is made rarely."""
    return min(most, 1 << (rows - 1).bit_length())
