"""What every HTTP request passes: Host and Origin, the key, a request id, and errors in the form of the protocol."""

import contextlib
import hmac
import sys
import traceback
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import orjson
from h11 import LocalProtocolError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.serving.api_errors import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PUBLIC = ("/health", "/", "/compare", "/rank", "/static/")  # without a key: no data, and the page that asks for the key
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


class Guard:
    """An ASGI middleware. hosts: names that the header Host may have (None: any, which needs a key)."""

    def __init__(self, app: ASGIApp, key: str | None, hosts: Iterable[str] | None, metrics: Any = None) -> None:
        self._app, self._key, self._metrics = app, key, metrics
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id, has_started, status = f"req_{uuid.uuid4().hex}", False, 500

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started, status
            if message["type"] == "http.response.start":
                has_started, status = True, message["status"]
                extra = [(b"x-request-id", request_id.encode()), *SECURITY]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            with contextlib.suppress(LocalProtocolError):  # uvicorn has answered already: the body was no valid HTTP
                await send(message)

        try:
            self._check(scope, headers)
            await self._app(scope, receive, send_with_headers)
        except ApiError as error:
            await _send_error(error, send_with_headers)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            if has_started:
                raise
            failure = ApiError(
                500, f"The server failed on request {request_id}; its log states why.", kind="server_error"
            )
            await _send_error(failure, send_with_headers)
        finally:
            if self._metrics is not None:
                route = scope.get("route")
                self._metrics.http.labels(getattr(route, "path", "other"), str(status)).inc()

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            # A page of another site whose name was made to point to this machine sends its own name (DNS rebinding).
            raise ApiError(421, f"This server does not answer for the host {host!r}.", code="invalid_host")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, f"Requests from the page {origin!r} are not allowed.", code="invalid_origin")
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            raise ApiError(403, "Requests from pages of other sites are not allowed.", code="invalid_origin")
        path = scope["path"]
        is_public = path in PUBLIC or path.startswith("/static/")
        if self._key is not None and not is_public:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._key.encode()):
                message = "Incorrect API key provided: send it in the header Authorization: Bearer KEY."
                raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _name(host: str) -> str:
    """The name of a Host header without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


async def _send_error(error: ApiError, send: Send) -> None:
    body = orjson.dumps(error.body)
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
