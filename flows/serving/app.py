"""The FastAPI application: the endpoints of the protocol, /health, /metrics, and the page."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from flows.serving import completions
from flows.serving.api_errors import ApiError
from flows.serving.guard import Guard
from flows.serving.page_api import Page, add_routes
from flows.serving.state import State
from tasks.serving import ServedModel


def build(
    state: State, key: str | None, hosts: Iterable[str] | None, watch_seconds: float = 0.0, page: Page | None = None
) -> Any:
    """The application. key: what clients must send; hosts: allowed names of this server (None: any)."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.delivery.start()
        watcher = asyncio.ensure_future(state.registry.watch(watch_seconds)) if watch_seconds else None
        yield
        if watcher is not None:
            watcher.cancel()
        await asyncio.to_thread(state.registry.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.serving = state
    app.add_exception_handler(ApiError, respond_with_error)
    app.add_exception_handler(HTTPException, http_error)
    add = app.add_api_route
    add("/v1/chat/completions", completions.chat, methods=["POST"])
    add("/v1/completions", completions.completions, methods=["POST"])
    add("/v1/models", list_models, methods=["GET"])
    add("/v1/models/{name:path}", one_model, methods=["GET"])
    add("/health", health, methods=["GET"])
    add("/metrics", metrics, methods=["GET"])
    if page is not None:
        add_routes(app, page)
    return Guard(app, key, hosts, state.metrics)


async def list_models(request: Request) -> dict[str, Any]:
    """The models that are served."""
    state: State = request.app.state.serving
    return {"object": "list", "data": [_about(served) for served in state.registry.all()]}


async def one_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    state: State = request.app.state.serving
    served = next((one for one in state.registry.all() if one.name == name), None)
    return _about(served if served is not None else state.registry.select(name))


async def health(request: Request) -> Response:
    """Whether every engine runs."""
    state: State = request.app.state.serving
    dead = [served.name for served in state.registry.all() if not served.engine.is_alive]
    if dead:
        return JSONResponse({"status": "failed", "models": dead}, 503)
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """The numbers for Prometheus."""
    state: State = request.app.state.serving
    return Response(state.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _about(served: ServedModel) -> dict[str, Any]:
    return {
        "id": served.name, "object": "model", "created": served.created, "owned_by": "athanor",
        "max_model_len": served.context, "version": served.version, "root": served.folder,
    }  # fmt: skip


async def respond_with_error(_: Request, error: Exception) -> Response:
    """An error in the form of the protocol."""
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


async def http_error(_: Request, error: Exception) -> Response:
    """Unknown paths and methods."""
    assert isinstance(error, HTTPException)
    code = "unknown_url" if error.status_code == 404 else None
    body = ApiError(error.status_code, f"{error.detail}.", code=code).body
    return JSONResponse(body, error.status_code, error.headers)
