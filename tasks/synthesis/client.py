"""Requests to an endpoint that speaks the protocol of OpenAI: rate limits, retries, a budget, and stored replies."""

import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tasks.errors import BadInput
from tasks.synthesis.params import EndpointParams
from tasks.synthesis.replies import Reply, ReplyStore, request_hash

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
CHARS_PER_TOKEN = {"latin": 4.0, "other": 1.5}  # rough, for estimates before anything is sent
Messages = list[dict[str, str]]


class BudgetSpent(Exception):
    """The next request could exceed the budget."""


@dataclass
class Budget:
    """What a run may cost, and what it has cost: earlier replies from the store count, too."""

    endpoint: EndpointParams
    max_cost: float | None = None
    max_tokens: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    _reserved: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cost(self) -> float:
        """The cost of all replies."""
        return self.cost_of(self.input_tokens, self.output_tokens)

    def cost_of(self, input_tokens: float, output_tokens: float) -> float:
        """The price of tokens."""
        prices = self.endpoint.price_per_million_input, self.endpoint.price_per_million_output
        return (input_tokens * prices[0] + output_tokens * prices[1]) / 1e6

    def reserve(self, messages: Messages, max_tokens: int) -> int:
        """Reserve the most that a request can use. Raises BudgetSpent if that could exceed a limit."""
        size = estimate_tokens(messages) + max_tokens
        with self._lock:
            total = self.input_tokens + self.output_tokens + self._reserved + size
            price = max(self.endpoint.price_per_million_input, self.endpoint.price_per_million_output)
            if self.max_tokens is not None and total > self.max_tokens:
                raise BudgetSpent
            if self.max_cost is not None and self.cost + (self._reserved + size) * price / 1e6 > self.max_cost:
                raise BudgetSpent
            self._reserved += size
        return size

    def release(self, size: int) -> None:
        """Give back what was reserved."""
        with self._lock:
            self._reserved -= size

    def count(self, reply: Reply) -> None:
        """Count the tokens of a reply."""
        with self._lock:
            self.input_tokens += int(reply.get("input_tokens", 0))
            self.output_tokens += int(reply.get("output_tokens", 0))


def estimate_tokens(messages: Messages) -> int:
    """A rough number of tokens: four characters of Latin text per token, one and a half of others."""
    text = "".join(message["content"] for message in messages)
    num_latin = sum(character < "\u0250" for character in text)
    others = len(text) - num_latin
    return int(num_latin / CHARS_PER_TOKEN["latin"] + others / CHARS_PER_TOKEN["other"]) + 4 * len(messages)


class RateLimit:
    """At most `per_minute` units in any minute, spread evenly."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_per_unit = 60 / per_minute if per_minute else 0.0
        self._next_time, self._lock = 0.0, threading.Lock()

    def wait(self, units: float = 1.0) -> None:
        """Sleep until `units` may be used."""
        if not self._seconds_per_unit:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_time)
            self._next_time = start + units * self._seconds_per_unit
        time.sleep(max(0.0, start - now))


class Endpoint:
    """Asks a model, several requests at a time; a request whose reply is stored is not sent."""

    def __init__(self, params: EndpointParams, store: ReplyStore, budget: Budget) -> None:
        self.params, self.store, self.budget = params, store, budget
        self.num_sent = self.num_stored = self.num_retries = 0
        self._requests, self._tokens = RateLimit(params.requests_per_minute), RateLimit(params.tokens_per_minute)
        self._lock = threading.Lock()
        self._counted: set[str] = set()

    @property
    def url(self) -> str:
        """The address of chat completions, without secrets."""
        return f"{str(self.params.base_url).rstrip('/')}/chat/completions"

    def ask_all(
        self, prompts: Sequence[Messages], *, temperature: float, max_tokens: int, seed: int = 0,
        on_reply: Callable[[], object] = lambda: None,
    ) -> list[tuple[str, Reply]]:  # fmt: skip
        """The key and the reply of each prompt, in their order. Raises BadInput, BudgetSpent.

        seed: makes requests with equal prompts different ones. When one request fails, those in flight are completed
        and stored before the error is raised.
        """

        def ask(messages: Messages) -> tuple[str, Reply]:
            body = {"model": self.params.model, "messages": messages, "temperature": temperature,
                    "max_tokens": max_tokens, "seed": seed}  # fmt: skip
            key = request_hash(self.url, body)
            reply = self.store.get(key)
            if reply is None:
                reply = self._send(key, body, messages, max_tokens)
            else:
                with self._lock:
                    self.num_stored += 1
            with self._lock:
                is_new = key not in self._counted
                self._counted.add(key)
            if is_new:
                self.budget.count(reply)
            on_reply()
            return key, reply

        distinct = {json.dumps(messages, sort_keys=True): messages for messages in prompts}
        with ThreadPoolExecutor(self.params.num_connections) as pool:
            futures = {text: pool.submit(ask, messages) for text, messages in distinct.items()}
            try:
                replies = {text: future.result() for text, future in futures.items()}
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [replies[json.dumps(messages, sort_keys=True)] for messages in prompts]

    def _send(self, key: str, body: dict[str, Any], messages: Messages, max_tokens: int) -> Reply:
        size = self.budget.reserve(messages, max_tokens)
        try:
            for attempt in range(1, self.params.max_attempts + 1):
                self._requests.wait()
                self._tokens.wait(size)
                try:
                    reply = self._post(key, body)
                except urllib.error.HTTPError as error:
                    detail = error.read(2000).decode("utf-8", "replace")
                    if error.code not in RETRIED or attempt == self.params.max_attempts:
                        raise self._failed(f"status {error.code}: {detail}") from None
                    self._pause(attempt, error.headers.get("Retry-After"))
                except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                    if attempt == self.params.max_attempts:
                        raise self._failed(repr(error)) from error
                    self._pause(attempt, None)
                else:
                    self.store.add(key, reply)
                    return reply
        finally:
            self.budget.release(size)
        raise AssertionError("unreachable")

    def _post(self, key: str, body: dict[str, Any]) -> Reply:
        # An endpoint that knows Idempotency-Key does not charge for a request whose reply was lost in a kill.
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if secret := os.environ.get(self.params.api_key_variable):
            headers["Authorization"] = f"Bearer {secret}"
        url = f"{self.params.base_url.reveal().rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with self._lock:
            self.num_sent += 1
        with urllib.request.urlopen(request, timeout=self.params.timeout_seconds) as response:
            answer = json.load(response)
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise ValueError("the reply has no text")
        text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be stored
        return {
            "text": text, "finish_reason": choice.get("finish_reason"),
            "input_tokens": usage.get("prompt_tokens", estimate_tokens(body["messages"])),
            "output_tokens": usage.get("completion_tokens", estimate_tokens([{"content": text}])),
        }  # fmt: skip

    def _pause(self, attempt: int, stated: str | None) -> None:
        with self._lock:
            self.num_retries += 1
        seconds = self.params.retry_seconds * 2 ** (attempt - 1) * random.uniform(1, 1.25)
        if stated is not None and stated.replace(".", "", 1).isdigit():
            seconds = max(seconds, float(stated))
        time.sleep(seconds)

    def _failed(self, problem: str) -> BadInput:
        return BadInput(
            f"the endpoint {self.url} did not answer a request ({problem}). All replies until then are stored: correct "
            "the cause and run the command again, which continues without sending them again."
        )
