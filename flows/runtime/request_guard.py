"""Refuse requests that a web page of another site has made, or that came to another name, before a server sees them.

A browser sends requests to 127.0.0.1 for any page that is open. Such a request has a foreign Origin, or, after DNS
rebinding, a foreign Host. Where a browser sends neither, it can only send the three content types of forms.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

HOSTS = "ATHANOR_HOSTS"  # the names, with port, that a server answers to, separated by commas
READING = {"GET", "HEAD"}
# Content types that a page may send to another site only after the server has permitted it (CORS), which ours do not.
CONTENT_TYPES = {"application/json", "application/x-protobuf", "application/octet-stream"}
NAVIGATION = "navigate"


class RequestGuard:
    """An ASGI application around `app` that answers refused requests with 403 and one sentence.

    hosts: the values of Host that are accepted. uploads: paths below which a PUT may have any content type, because the
    files of artifacts have their own ones. blocked: paths that are refused altogether.
    """

    def __init__(
        self, app: Any, hosts: Sequence[str], uploads: Sequence[str] = (), blocked: Sequence[str] = ()
    ) -> None:
        self._app, self._hosts, self._uploads, self._blocked = app, set(hosts), tuple(uploads), tuple(blocked)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        problem = self.problem(scope) if scope["type"] in ("http", "websocket") else None
        if problem is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": problem})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": problem.encode()})

    def problem(self, scope: Mapping[str, Any]) -> str | None:
        """Return why the request is refused; None if it is accepted."""
        pairs = [
            (bytes(key).lower().decode("latin-1"), bytes(value).decode("latin-1")) for key, value in scope["headers"]
        ]
        headers = dict(pairs)
        if [key for key, _ in pairs].count("host") != 1 or headers["host"].lower() not in self._hosts:
            return f"This server answers to {', '.join(sorted(self._hosts))} only (header Host)."
        if any(value not in self._origins() for key, value in pairs if key == "origin"):
            return "Requests of other sites are refused (header Origin)."
        method = scope.get("method", "GET")
        is_link = method in READING and headers.get("sec-fetch-mode") == NAVIGATION
        # An Origin is checked above; for a browser, localhost:PORT and 127.0.0.1:PORT are two sites, and both are ours.
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_link and "origin" not in headers:
            return "Requests of other sites are refused (header Sec-Fetch-Site)."
        if any(scope["path"].startswith(path) for path in self._blocked):
            return "This part of the server is switched off."
        if method not in READING and not self._has_permitted_type(method, scope["path"], headers):
            return f"The content type must be one of {', '.join(sorted(CONTENT_TYPES))}."
        return None

    def _origins(self) -> set[str]:
        return {f"http://{host}" for host in self._hosts}

    def _has_permitted_type(self, method: str, path: str, headers: Mapping[str, str]) -> bool:
        if method == "PUT" and path.startswith(self._uploads):
            return True
        if "content-type" not in headers:  # Prefect's own client leaves it out; every browser sends an Origin instead
            is_browser = "origin" in headers or "sec-fetch-site" in headers
            return not is_browser or (headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers)
        return headers["content-type"].split(";")[0].strip().lower() in CONTENT_TYPES


def hosts_of(port: int | str) -> list[str]:
    """Return the names of this machine's loopback interface with `port`."""
    return [f"{name}:{port}" for name in ("127.0.0.1", "localhost")]


def hosts() -> list[str]:
    """Return the names that the server of this process answers to."""
    return [host for host in os.environ.get(HOSTS, "").split(",") if host]
