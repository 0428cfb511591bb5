"""From the threads of the engines to the event loop of the server, and the answers of one HTTP request."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from flows.serving import api_errors
from flows.serving.api_errors import ApiError
from flows.serving.protocol import SharedFields
from tasks.serving import Event, Full, Request, Sampling, ServedModel

Events = asyncio.Queue[tuple[int, Event]]
MIN_TOP_P = 1e-9  # a `top_p` of 0 keeps the most probable token


class Delivery:
    """Collects the events of a round, and wakes the event loop once for all of them."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: list[tuple[Events, int, Event]] = []

    def start(self) -> None:
        """Deliver to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def post(self, queue: Events, index: int, event: Event) -> None:
        """Add an event; any thread."""
        self._pending.append((queue, index, event))

    def flush(self) -> None:
        """Deliver what was added; any thread."""
        if self._pending and self._loop is not None:
            batch, self._pending = self._pending, []
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens anymore
                self._loop.call_soon_threadsafe(_put, batch)


def _put(batch: list[tuple[Events, int, Event]]) -> None:
    for queue, index, event in batch:
        queue.put_nowait((index, event))


@dataclass(frozen=True, slots=True)
class Limits:
    """max_new_tokens: the length of an answer for which a client states no limit; seconds: per request."""

    max_new_tokens: int = 1024
    max_choices: int = 16
    max_prompts: int = 128
    seconds: float = 600.0


class Answers:
    """The answers of one HTTP request: n for each prompt. Leaving the block cancels what is not complete."""

    def __init__(self, served: ServedModel, delivery: Delivery) -> None:
        self.served, self._delivery = served, delivery
        self.requests: list[Request] = []
        self._queue: Events = asyncio.Queue()

    def add(
        self,
        ids: Sequence[int],
        body: SharedFields,
        limits: Limits,
        *,
        is_chat: bool,
        max_new_tokens: int | None,
        num_top: int | None,
        num_prompt_top: int | None = None,
    ) -> None:
        """Add `body.n` answers to one prompt. Raises ApiError if they do not fit."""
        served = self.served
        room = served.context - len(ids)
        if room < (0 if max_new_tokens == 0 else 1) or (max_new_tokens or 0) > room:
            raise api_errors.too_long(served.context, len(ids), 1 if max_new_tokens is None else max_new_tokens)
        if not ids:
            raise ApiError(400, "The prompt has no token.", param="prompt", code="invalid_value")
        # Without a seed, every request has another one; the choices of one request never share theirs.
        seed = body.seed if body.seed is not None else random.SystemRandom().getrandbits(48)
        for choice in range(body.n or 1):
            index = len(self.requests)
            request = Request(
                ids=ids,
                max_tokens=min(room, limits.max_new_tokens) if max_new_tokens is None else max_new_tokens,
                on_event=lambda _, event, index=index: self._delivery.post(self._queue, index, event),  # type: ignore[misc]
                text=served.decoder.answer_text(body.stops, is_chat),
                sampling=_sampling(body, served),
                end_ids=frozenset() if body.ignore_eos else served.end_ids,
                seed=seed + choice,
                num_top=num_top,
                num_prompt_top=num_prompt_top,
                deadline=time.monotonic() + limits.seconds,
            )
            self.requests.append(request)

    async def __aenter__(self) -> "Answers":
        try:
            self.served.engine.submit(*self.requests)
        except Full:
            raise api_errors.too_many() from None
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End what is not complete."""
        for request in self.requests:
            request.cancel()

    async def batches(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """Yield all events that have arrived, until every answer is complete. Raises ApiError for a failure."""
        num_open = len(self.requests)
        while num_open:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            for _, event in batch:
                if event.finish_reason == "error":
                    raise ApiError(500, f"{event.error}.", kind="server_error", code="engine_error")
                if event.finish_reason == "timeout":
                    raise ApiError(
                        408, "The answer took longer than this server allows.", code="timeout",
                        headers={"x-should-retry": "false"},
                    )  # fmt: skip
                num_open -= event.finish_reason is not None
            yield batch

    @property
    def usage(self) -> dict[str, object]:
        """The numbers of tokens so far. A prompt counts once for all of its answers."""
        # Answers to one prompt share one list of ids.
        prompts = {id(request.ids): request for request in self.requests}.values()
        num_prompt = sum(len(request.ids) for request in prompts)
        num_answer = sum(len(request.answer) for request in self.requests)
        cached = sum(request.num_shared for request in prompts)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_answer,
            "total_tokens": num_prompt + num_answer,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def _sampling(body: SharedFields, served: ServedModel) -> Sampling:
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    if bias and max(bias) >= served.vocab_size:
        message = f"Invalid value for 'logit_bias': the largest token id of this model is {served.vocab_size - 1}."
        raise ApiError(400, message, param="logit_bias", code="invalid_value")
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else max(body.top_p, MIN_TOP_P),
        top_k=max(0, body.top_k or 0),
        min_p=body.min_p or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        min_tokens=body.min_tokens or 0,
        logit_bias=bias,
    )
