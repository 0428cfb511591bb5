"""Requests that a web page of another site can make are refused, on every kind of route."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from flows.runtime.request_guard import RequestGuard, hosts_of

GUARD = RequestGuard(None, hosts_of(4200), uploads=("/artifacts",), blocked=("/assistant",))
OWN = {"host": "127.0.0.1:4200"}
JSON = {"content-type": "application/json"}


def problem(headers: Mapping[str, str], method: str = "GET", path: str = "/api", kind: str = "http") -> str | None:
    pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
    return GUARD.problem({"type": kind, "method": method, "path": path, "headers": pairs})


@pytest.mark.parametrize(
    ("headers", "method", "path"),
    [
        (OWN, "GET", "/api"),
        ({"host": "LOCALHOST:4200"}, "GET", "/api"),
        (OWN | JSON, "POST", "/api"),
        (OWN | {"content-type": "application/json; charset=utf-8"}, "POST", "/api"),
        (OWN | {"content-length": "7"}, "POST", "/api"),  # Prefect's client
        (OWN | {"content-length": "0", "origin": "http://127.0.0.1:4200"}, "POST", "/api"),
        (OWN | JSON | {"origin": "http://localhost:4200", "sec-fetch-site": "same-origin"}, "POST", "/api"),
        (OWN | JSON | {"origin": "http://localhost:4200", "sec-fetch-site": "cross-site"}, "POST", "/api"),
        (OWN | {"content-type": "text/csv"}, "PUT", "/artifacts/1"),
        (OWN | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "GET", "/"),  # a link in a mail
    ],
)
def test_own_requests_pass(headers: Mapping[str, str], method: str, path: str) -> None:
    assert problem(headers, method, path) is None


@pytest.mark.parametrize(
    ("headers", "method", "path"),
    [
        ({}, "GET", "/api"),
        ({"host": "evil.example"}, "GET", "/api"),
        ({"host": "127.0.0.1"}, "GET", "/api"),
        ({"host": "127.0.0.1:4200.evil.example"}, "GET", "/api"),
        (OWN | JSON | {"origin": "http://evil.example"}, "POST", "/api"),
        (OWN | JSON | {"origin": "null"}, "POST", "/api"),
        (OWN | JSON | {"origin": "http://127.0.0.1:8888"}, "POST", "/api"),  # another server of this machine
        (OWN | {"origin": "http://evil.example"}, "OPTIONS", "/api"),
        (OWN | {"origin": "http://evil.example"}, "GET", "/api"),
        (OWN | {"content-type": "text/plain"}, "POST", "/api"),
        (OWN | {"content-type": "application/x-www-form-urlencoded"}, "POST", "/api"),
        (OWN | {"content-type": "multipart/form-data; boundary=x"}, "PATCH", "/api"),
        (OWN | {"content-type": "text/csv"}, "POST", "/artifacts/1"),
        (OWN | {"content-length": "7", "sec-fetch-site": "same-origin"}, "POST", "/api"),
        (OWN | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "GET", "/api"),  # an image
        (OWN | JSON | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, "POST", "/api"),
        (OWN | JSON, "POST", "/assistant/message"),
    ],
)
def test_requests_of_other_sites_are_refused(headers: Mapping[str, str], method: str, path: str) -> None:
    assert problem(headers, method, path)


def test_a_second_host_is_refused() -> None:
    pairs = [(b"host", b"127.0.0.1:4200"), (b"host", b"evil.example")]
    assert GUARD.problem({"type": "http", "method": "GET", "path": "/", "headers": pairs})


@pytest.mark.parametrize(("kind", "answer"), [("http", 403), ("websocket", 1008)])
def test_the_answer_does_not_reach_the_server(kind: str, answer: int) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    asyncio.run(GUARD({"type": kind, "path": "/", "headers": [(b"host", b"evil.example")]}, receive, send))
    assert answer in (sent[0].get("status"), sent[0].get("code"))
