"""A server on a free port in a thread, with tiny models."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from flows.serving import app
from flows.serving.delivery import Delivery, Limits
from flows.serving.guard import LOOPBACK
from flows.serving.metrics import Metrics
from flows.serving.page_api import Page
from flows.serving.registry import Registry
from flows.serving.state import State
from tasks.serving import EngineParams


@contextlib.contextmanager
def server(
    data: Path,
    *names: str,
    params: EngineParams | None = None,
    limits: Limits | None = None,
    key: str | None = None,
    share: float = 0.0,
    page: Page | None = None,
    **settings: Any,
) -> Iterator[tuple[str, State]]:
    """Serve models of `data`; yields the address and the state."""
    delivery = Delivery()
    registry = Registry(names or ("sft",), data, params or EngineParams(), share, on_round=delivery.flush)
    registry.load_all()
    state = State(registry, delivery, Metrics(registry), limits or Limits(max_new_tokens=40), **settings)
    application = app.build(state, key, None if key else LOOPBACK, page=page)
    config = uvicorn.Config(application, host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(running.serve()), daemon=True)
    thread.start()
    try:
        while not running.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = running.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", state
    finally:
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until_idle(state: State, seconds: float = 10.0) -> None:
    """Wait until no answer is written."""
    until = time.monotonic() + seconds
    while any(served.engine.num_running or served.engine.num_waiting for served in state.registry.all()):
        assert time.monotonic() < until, "answers are still written"
        time.sleep(0.01)


def post(address: str, path: str = "/v1/chat/completions", **request: Any) -> httpx.Response:
    return httpx.post(address + path, timeout=30, **request)
