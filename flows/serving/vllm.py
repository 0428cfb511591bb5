"""The engine vLLM: a process in an environment of its own, behind the server of this project.

vLLM pins other versions of torch and transformers, so that it cannot be installed beside this project. It reads the
exported folder of the model and listens on a Unix socket that only this user can open. Before the server opens its
port, the greedy text of vLLM is compared with that of the code that has trained the model.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from flows.runtime.environment import RUN
from flows.serving.api_errors import ApiError
from flows.serving.app import http_error, respond_with_error
from flows.serving.completions import read_bytes
from flows.serving.guard import Guard
from flows.serving.registry import find_folder
from tasks.errors import BadModel, BadParams
from tasks.serving import version

VARIABLE, DEFAULT_PYTHON = "ATHANOR_VLLM_PYTHON", ".vllm/bin/python"
FOLDER, LOG = RUN / "vllm", RUN / "vllm/log.txt"
START_SECONDS, STOP_SECONDS, POLL_SECONDS = 900.0, 30.0, 0.2  # vLLM compiles the model when it starts
NUM_LOG_LINES, MAX_BODY_BYTES = 12, 4 << 20
PRECISIONS = {"float32": "safetensors-fp32", "bfloat16": "safetensors-bf16"}
PATHS = {"/v1/models": "GET", "/v1/chat/completions": "POST", "/v1/completions": "POST", "/health": "GET",
         "/metrics": "GET"}  # fmt: skip
INSTALL = f"Install it in an environment of its own (python3 -m venv .vllm && .vllm/bin/pip install vllm), or name its \
interpreter by --vllm-python or {VARIABLE}."
# The kernel ends vLLM when this process ends, however that happens. It is started by the main thread, whose end counts.
START = """import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])"""
PROBE = """import json, importlib.util
found = importlib.util.find_spec("vllm") is not None
device = ""
if found:
    from vllm.platforms import current_platform
    device = current_platform.device_type
print(json.dumps({"found": found, "device": device}))"""


def python_of(args: argparse.Namespace) -> Path:
    """The interpreter of vLLM's environment. Raises BadParams if it is missing or has no vLLM, and without a GPU."""
    python = Path(args.vllm_python or os.environ.get(VARIABLE) or DEFAULT_PYTHON).absolute()
    if not os.access(python, os.X_OK):
        raise BadParams(f"--engine vllm: there is no interpreter {python}. {INSTALL}")
    result = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, env=_environment(), check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise BadParams(f"--engine vllm: vLLM in {python} cannot be imported: {reason}. {INSTALL}")
    probe = json.loads(result.stdout.strip().splitlines()[-1])
    if not probe["found"]:
        raise BadParams(f"--engine vllm: {python} has no package vllm. {INSTALL}")
    if not probe["device"]:
        raise BadParams(
            "--engine vllm: vLLM finds no GPU on this machine (nvidia-smi shows those that the driver knows). Without "
            "--engine, the engine of this project serves the model on the CPU."
        )
    return python


def exported(model: str, data: Path, dtype: str) -> Path:
    """The folder that vLLM reads: the model in this precision, with a merged adapter, written once per version."""
    from tasks.export import tasks as export

    source = find_folder(model, data)
    folder = (FOLDER / f"{version(source)}-{dtype}").absolute()
    if not (folder / export.REPORT).is_file():
        print(f"exporting {source} to {folder} ...", file=sys.stderr, flush=True)
        export.export(str(source), PRECISIONS[dtype], folder)  # type: ignore[arg-type]
    return folder


@contextlib.contextmanager
def running(python: Path, folder: Path, args: argparse.Namespace) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Start vLLM; yield the process and its socket when it answers. Raises BadModel if it does not start."""
    with tempfile.TemporaryDirectory(prefix="athanor-vllm-") as private:  # only this user can open files in it
        socket = Path(private) / "socket"
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", folder,
                   "--served-model-name", args.model, "--uds", socket, "--dtype", args.dtype,
                   "--max-num-seqs", args.max_batch, "--disable-uvicorn-access-log"]  # fmt: skip
        with open(LOG, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", START, str(os.getpid()), *map(str, command)], stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, env=_environment(), start_new_session=True,
            )  # fmt: skip
        try:
            _await_answer(process, socket)
            yield process, socket
        finally:
            _stop(process)


def _await_answer(process: "subprocess.Popen[bytes]", socket: Path) -> None:
    until = time.monotonic() + START_SECONDS
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://vllm", timeout=10) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if socket.exists() and client.get("/health").status_code == 200:
                    return
            if process.poll() is not None:
                lines = LOG.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-NUM_LOG_LINES:]
                raise BadModel(
                    f"vLLM has ended while it started (exit code {process.returncode}). The last lines of {LOG}:\n"
                    + "\n".join(f"  {line}" for line in lines)
                )
            if time.monotonic() > until:
                raise BadModel(f"vLLM does not answer {START_SECONDS:g} seconds after its start; see {LOG}.")
            time.sleep(POLL_SECONDS)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End vLLM and the processes that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


def compare(socket: Path, model: str, prompts: list[list[int]], expected: list[str]) -> None:
    """Raise BadModel unless the greedy text of vLLM is the expected one."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://vllm", timeout=300) as client:
        for ids, text in zip(prompts, expected, strict=True):
            body = {"model": model, "prompt": ids, "max_tokens": 32, "temperature": 0}
            response = client.post("/v1/completions", json=body)
            if response.status_code != 200:
                raise BadModel(f"vLLM answers with status {response.status_code}: {response.text[:500]}")
            answer = str(response.json()["choices"][0]["text"])
            if answer.strip() != text.strip():
                raise BadModel(
                    f"the greedy text of vLLM differs from that of this project: {answer.strip()!r} instead of "
                    f"{text.strip()!r}. It is not served. If --dtype is bfloat16, try float32: rounding may decide "
                    "between two tokens. Otherwise this version of vLLM computes another model."
                )


def build(process: "subprocess.Popen[bytes]", socket: Path, key: str | None, hosts: set[str] | None) -> Any:
    """The application: the endpoints of the protocol, which vLLM answers, behind the checks of every request."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=httpx.Limits(max_connections=None))
        async with httpx.AsyncClient(transport=transport, base_url="http://vllm", timeout=None) as client:
            app.state.vllm = client
            watcher = asyncio.ensure_future(_end_with(process))
            yield
            watcher.cancel()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(ApiError, respond_with_error)
    app.add_exception_handler(HTTPException, http_error)
    for path, method in PATHS.items():
        app.add_api_route(path, forward, methods=[method])
    return Guard(app, key, hosts)


async def _end_with(process: "subprocess.Popen[bytes]") -> None:
    """End this server in order when vLLM has ended."""
    while process.poll() is None:
        await asyncio.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


async def forward(request: Request) -> Response:
    """Let vLLM answer a request; a stream is passed on as it comes."""
    body = await read_bytes(request, MAX_BODY_BYTES) if request.method == "POST" else b""
    client: httpx.AsyncClient = request.app.state.vllm
    headers = {"content-type": "application/json"}
    try:
        passed_on = client.build_request(request.method, request.url.path, content=body, headers=headers)
        answer = await client.send(passed_on, stream=True)
    except httpx.TransportError as error:
        raise ApiError(503, f"vLLM does not answer ({error!r}).", kind="server_error") from None

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_raw():
                yield part
        finally:
            await answer.aclose()

    return StreamingResponse(parts(), answer.status_code, media_type=answer.headers.get("content-type"))


def _environment() -> dict[str, str]:
    """Without the paths of this project's packages, and without requests to other machines."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    return kept | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
