"""POST /v1/chat/completions and POST /v1/completions: the answers of the engine as JSON or as server-sent events."""

import abc
import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import orjson
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse

from flows.serving import api_errors
from flows.serving.api_errors import ApiError
from flows.serving.delivery import Answers
from flows.serving.protocol import ChatRequest, CompletionRequest
from flows.serving.state import State
from tasks.errors import BadInput
from tasks.serving import Event, ServedModel, TokenLogProb

Body = TypeVar("Body", bound=BaseModel)
DONE = b"data: [DONE]\n\n"
BLOCKED = "content_filter"
BODY_SECONDS = 60.0  # in which the body of a request has to arrive


async def read_bytes(request: HttpRequest, max_bytes: int) -> bytes:
    """Read a JSON body. Raises ApiError for one of another type, and for one that is too long or does not arrive."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "Set the header Content-Type: application/json.", code="unsupported_media_type")
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > max_bytes:
                    raise ApiError(413, f"The body has more than {max_bytes:,} bytes.", code="request_too_large")
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive in {BODY_SECONDS:g} seconds.", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "The connection ended within the body.", code="incomplete_body") from None
    return bytes(content)


async def read_body(request: HttpRequest, kind: type[Body], max_bytes: int) -> Body:
    """Read and check a JSON body. Raises ApiError."""
    content = await read_bytes(request, max_bytes)
    try:
        return kind.model_validate(orjson.loads(content))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except ValidationError as error:
        raise api_errors.from_validation(error) from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.", code="invalid_json") from None


async def chat(request: HttpRequest) -> Response:
    """Answer a chat."""
    state: State = request.app.state.serving
    body = await read_body(request, ChatRequest, state.max_body_bytes)
    served = state.registry.select(body.model, body.user)
    if not served.can_chat:
        raise ApiError(400, f"{body.model} has no chat template; use /v1/completions.", param="model")
    messages = [{"role": _role(message.role), "content": message.text} for message in body.messages]
    _check_choices(body.n, 1, state)
    try:
        ids = await asyncio.to_thread(served.encode_chat, messages)
    except BadInput as error:
        raise ApiError(400, f"{error}.", param="messages", code="invalid_value") from None
    answers = Answers(served, state.delivery)
    answers.add(ids, body, state.limits, is_chat=True, max_new_tokens=body.max_new_tokens, num_top=body.num_top)
    sign = partial(state.signer.sign, messages, served.name, served.version) if body.is_unbiased else None
    writer = _ChatWriter(served, answers, bool(body.logprobs), sign)
    return await _respond(request, state, answers, writer, bool(body.stream), body.with_usage)


async def completions(request: HttpRequest) -> Response:
    """Continue texts."""
    state: State = request.app.state.serving
    body = await read_body(request, CompletionRequest, state.max_body_bytes)
    served = state.registry.select(body.model, body.user)
    _check_choices(body.n, len(body.prompts), state)
    answers = Answers(served, state.delivery)
    num_prompt_top = body.logprobs if body.echo and body.logprobs is not None else None
    max_new_tokens = 16 if body.max_tokens is None else body.max_tokens  # the default of this endpoint
    for prompt in body.prompts:
        ids = prompt if isinstance(prompt, list) else await asyncio.to_thread(served.encode, prompt)
        if not all(0 <= index < served.vocab_size for index in ids):
            message = f"Invalid value for 'prompt': token ids of this model are 0 to {served.vocab_size - 1}."
            raise ApiError(400, message, param="prompt", code="invalid_value")
        answers.add(
            ids, body, state.limits, is_chat=False, max_new_tokens=max_new_tokens, num_top=body.logprobs,
            num_prompt_top=num_prompt_top,
        )  # fmt: skip
    writer = _TextWriter(served, answers, body.logprobs is not None, bool(body.echo), body.n or 1, body.prompts)
    return await _respond(request, state, answers, writer, bool(body.stream), body.with_usage)


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _check_choices(n: int | None, num_prompts: int, state: State) -> None:
    if (n or 1) > state.limits.max_choices:
        raise ApiError(
            400, f"Invalid value for 'n': at most {state.limits.max_choices}.", param="n", code="invalid_value"
        )
    if num_prompts > state.limits.max_prompts:
        message = f"Invalid value for 'prompt': at most {state.limits.max_prompts} prompts in one request."
        raise ApiError(400, message, param="prompt", code="invalid_value")


class _Writer(abc.ABC):
    """Turns events into the objects of the protocol."""

    kind = chunk_kind = prefix = ""

    def __init__(self, served: ServedModel, answers: Answers, with_log_probs: bool) -> None:
        self.served, self.answers, self.with_log_probs = served, answers, with_log_probs
        self.about = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": served.name,
            "system_fingerprint": f"fp_{served.version}",
        }

    def head(self) -> list[dict[str, Any]]:
        """Chunks before the first text."""
        return []

    @abc.abstractmethod
    def choice(self, index: int, text: str, events: Sequence[Event], reason: str | None) -> dict[str, Any]:
        """A whole answer."""

    @abc.abstractmethod
    def delta(self, index: int, event: Event, reason: str | None) -> list[dict[str, Any]]:
        """The choices of the chunks for one event."""


class _ChatWriter(_Writer):
    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(
        self, served: ServedModel, answers: Answers, with_log_probs: bool, sign: Callable[[str, str], str] | None
    ) -> None:
        """sign: makes the signature of a text and its finish reason, with which the page can vote; None: without."""
        super().__init__(served, answers, with_log_probs)
        self._sign, self._texts = sign, [""] * len(answers.requests)

    def head(self) -> list[dict[str, Any]]:
        return [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            for index in range(len(self.answers.requests))
        ]

    def choice(self, index: int, text: str, events: Sequence[Event], reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        tokens = [token for event in events for token in event.tokens]
        choice = {"index": index, "message": message, "logprobs": self._log_probs(tokens), "finish_reason": reason}
        return choice | self._signature(text, reason)

    def delta(self, index: int, event: Event, reason: str | None) -> list[dict[str, Any]]:
        choices: list[dict[str, Any]] = []
        self._texts[index] += event.text
        if event.text or event.tokens:
            logprobs = self._log_probs(event.tokens)
            choices.append(
                {"index": index, "delta": {"content": event.text}, "logprobs": logprobs, "finish_reason": None}
            )
        if reason is not None:
            signature = self._signature(self._texts[index], reason)
            choices.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": reason, **signature})
        return choices

    def _signature(self, text: str, reason: str | None) -> dict[str, str]:
        return {"signature": self._sign(text, reason)} if self._sign is not None and reason is not None else {}

    def _log_probs(self, tokens: Sequence[TokenLogProb]) -> dict[str, Any] | None:
        if not self.with_log_probs:
            return None
        content = [
            {**self._entry(token.token, token.log_prob), "top_logprobs": [self._entry(*pair) for pair in token.top]}
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, log_prob: float) -> dict[str, Any]:
        encoded = self.served.decoder.token_bytes(token)
        # The protocol has no infinity; -9999 is its word for an impossible token.
        return {"token": encoded.decode("utf-8", "replace"), "logprob": max(log_prob, -9999.0), "bytes": list(encoded)}


class _TextWriter(_Writer):
    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(
        self,
        served: ServedModel,
        answers: Answers,
        with_log_probs: bool,
        echo: bool,
        n: int,
        prompts: Sequence[str | list[int]],
    ) -> None:
        super().__init__(served, answers, with_log_probs)
        self.echo, self._n, self._prompts = echo, n, prompts
        self._offsets = [0] * len(answers.requests)
        self._echoed = [not echo] * len(answers.requests)

    def choice(self, index: int, text: str, events: Sequence[Event], reason: str | None) -> dict[str, Any]:
        prompt = next((event.prompt for event in events if event.prompt), None)
        tokens = [*(prompt or ()), *(token for event in events for token in event.tokens)]
        return {
            "index": index, "text": self._echo(index) + text, "logprobs": self._log_probs(index, tokens),
            "finish_reason": reason,
        }  # fmt: skip

    def delta(self, index: int, event: Event, reason: str | None) -> list[dict[str, Any]]:
        text, tokens = self._echo(index) + event.text, [*(event.prompt or ()), *event.tokens]
        choices = []
        if text or tokens:
            logprobs = self._log_probs(index, tokens)
            choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": None})
        if reason is not None:
            choices.append({"index": index, "text": "", "logprobs": None, "finish_reason": reason})
        return choices

    def _echo(self, index: int) -> str:
        """The prompt, once, if it was asked for."""
        if self._echoed[index]:
            return ""
        self._echoed[index] = True
        prompt = self._prompts[index // self._n]
        return prompt if isinstance(prompt, str) else self.served.decoder.decode(prompt)

    def _log_probs(self, index: int, tokens: Sequence[TokenLogProb]) -> dict[str, Any] | None:
        if not self.with_log_probs:
            return None
        decoder, offsets = self.served.decoder, list[int]()
        texts = [decoder.token_text(token.token) for token in tokens]
        for text in texts:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [
                None if math.isnan(token.log_prob) else max(token.log_prob, -9999.0) for token in tokens
            ],
            "top_logprobs": [
                None if math.isnan(token.log_prob) else {decoder.token_text(key): value for key, value in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
        }


async def _respond(
    request: HttpRequest, state: State, answers: Answers, writer: _Writer, is_stream: bool, with_usage: bool
) -> Response:
    """Send the answers as they come, or when all are complete."""
    if not is_stream:
        return await _or_disconnect(request, answers, _whole(state, answers, writer))
    await answers.__aenter__()  # a full queue is an error with its own status, before the stream begins
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        _events(state, answers, writer, with_usage), media_type="text/event-stream", headers=headers
    )


async def _whole(state: State, answers: Answers, writer: _Writer) -> Response:
    events: list[list[Event]] = [[] for _ in answers.requests]
    async with answers:
        async for batch in answers.batches():
            for index, event in batch:
                events[index].append(event)
    choices = []
    for index, of_choice in enumerate(events):
        text = "".join(event.text for event in of_choice)
        reason = _reason(of_choice[-1])
        if (label := await state.blocked(text)) is not None:
            text, of_choice, reason = state.blocked_text(label), [], BLOCKED
        choices.append(writer.choice(index, text, of_choice, reason))
    body = {**writer.about, "object": writer.kind, "choices": choices, "usage": answers.usage}
    state.metrics.observe(answers)
    return Response(orjson.dumps(body), media_type="application/json")


async def _events(state: State, answers: Answers, writer: _Writer, with_usage: bool) -> AsyncIterator[bytes]:
    """The server-sent events of a stream. A client that leaves ends the generator, and so the answers."""
    usage = {"usage": None} if with_usage else {}
    about = {**writer.about, "object": writer.chunk_kind}

    def chunk(choices: list[dict[str, Any]], extra: dict[str, Any] = usage) -> bytes:
        return b"data: " + orjson.dumps({**about, "choices": choices, **extra}) + b"\n\n"

    held: list[list[Event]] = [[] for _ in answers.requests]
    try:
        if head := b"".join(chunk([choice]) for choice in writer.head()):
            yield head
        async for batch in answers.batches():
            news = [(index, event, _reason(event)) for index, event in batch]
            if state.has_filter:
                news = [one for index, event in batch for one in await _checked(state, held, index, event)]
            if part := b"".join(chunk([choice]) for one in news for choice in writer.delta(*one)):
                yield part
        if with_usage:
            yield chunk([], {"usage": answers.usage})
    except ApiError as error:
        yield b"data: " + orjson.dumps(error.body) + b"\n\n"
    finally:
        answers.cancel()
        state.metrics.observe(answers)
    yield DONE


async def _checked(
    state: State, held: list[list[Event]], index: int, event: Event
) -> list[tuple[int, Event, str | None]]:
    """With a filter, an answer is sent when it is complete and was checked."""
    held[index].append(event)
    if event.finish_reason is None:
        return []
    if (label := await state.blocked("".join(part.text for part in held[index]))) is not None:
        return [(index, Event(state.blocked_text(label)), BLOCKED)]
    return [(index, part, _reason(part)) for part in held[index]]


def _reason(event: Event) -> str | None:
    return event.finish_reason if event.finish_reason != "canceled" else "stop"


async def _or_disconnect(request: HttpRequest, answers: Answers, work: Coroutine[Any, Any, Response]) -> Response:
    """Wait for `work`; when the client leaves before, the answers are canceled."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    response, leave = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((response, leave), return_when=asyncio.FIRST_COMPLETED)
        if not response.done():
            answers.cancel()
        return await response
    finally:
        leave.cancel()
