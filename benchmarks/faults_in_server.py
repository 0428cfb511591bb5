"""Faults of a real server: SIGKILL amid streams and votes, malformed requests, slow clients and clients that leave.

    make bench NAME=faults_in_server

A process of `python -m flows.serving` with a tiny random model is killed while 200 streams are open and 200 votes
arrive; it starts again, and every vote is sent again, about the answers of the killed one. `lost` and `doubled` are
votes that the server has acknowledged, or that are missing at the end. Then 1,000 malformed requests, and rounds of 32
slow clients and 100 that leave in the middle of a stream; `memory_growth_mb`: the memory of the process after the last
round, less that after the first.
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil

from benchmarks.serving import START_SECONDS, free_port
from tasks import models
from tasks.feedback import FOLDER, FeedbackLog
from tasks.tokenization import bpe
from tasks.training.shape import architecture

NUM_STREAMS, NUM_VOTES, NUM_MALFORMED, NUM_SLOW, NUM_LEAVING, NUM_ROUNDS = 200, 200, 1_000, 32, 100, 4
SHARE_BEFORE_KILL = 0.3  # of the votes
STREAM_TOKENS, NUM_VOTERS, SECONDS = 4_000, 4, 120.0
SLOW_SECONDS, SLOW_LINES = 0.02, 100
MAX_GROWTH_MB = 8.0
CHAT, COMPLETIONS, VOTES = "/v1/chat/completions", "/v1/completions", "/page/feedback"
Rows = list[dict[str, Any]]
COOKIES = {"annotator": "a" * 32}
PROMPT = [{"role": "user", "content": "say one"}]
VOTE: dict[str, Any] = {"action": "comparison", "prompt": PROMPT, "order": [1, 0], "choice": 1, "reason": "ok"}
REQUEST: dict[str, Any] = {"messages": PROMPT, "prompt": "one", "max_tokens": 2, "temperature": 0}
FIELDS = [*REQUEST, "model", "n", "stop", "stream", "stream_options", "logprobs", "top_logprobs", "logit_bias", "seed",
          "echo", "tools", "response_format", "top_k", "min_p", "user", "metadata"]  # fmt: skip
VALUES: list[Any] = [
    None, True, -1, 0, 1e308, 1 << 70, "", "x", [], [[]], {},
    [{}], {"a": [1]}, [None], "😀" * 50, [[[[1]]]], -0.0, "\x00",
]  # fmt: skip
RAW_REQUESTS = (
    b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nhost 127.0.0.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /page/feedback HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{",
)  # fmt: skip


def main() -> None:
    """Print one JSON line."""
    with TemporaryDirectory() as folder:
        data = Path(folder)
        model = write_model(data / "models/sft")
        result: dict[str, Any] = kill_amid_votes(data, model, NUM_STREAMS, NUM_VOTES)
        with running(data, model) as server:
            result |= send_malformed(server.address, NUM_MALFORMED)
            result["tracebacks"] = server.log.read_text(encoding="utf-8").count("Traceback")
            result |= memory_with_clients(server.address, server.pid, NUM_SLOW, NUM_LEAVING, NUM_ROUNDS)
    zero = ("lost", "doubled", "server_errors", "without_form", "tracebacks")
    kept = not any(result[name] for name in zero) and result["memory_growth_mb"] < MAX_GROWTH_MB
    print(json.dumps(result | {"promises_kept": kept}))


def write_model(folder: Path) -> Path:
    """A tiny random model whose context is long enough for streams that are still open when the server is killed."""
    tokenizer = bpe.train([PROMPT[0]["content"]], 262)
    shape = architecture.Architecture(width=16, num_layers=1, num_heads=2, max_length=STREAM_TOKENS + 200)
    models.save(folder, architecture.build(shape, tokenizer, 0), tokenizer, {"stage": "sft"})
    return folder


class ServerProcess:
    """A server in a process of its own. log: what it writes on stderr."""

    def __init__(self, data: Path, model: Path, *arguments: str) -> None:
        port = free_port()
        self.address, self.log = f"http://127.0.0.1:{port}", data / f"server-{port}.log"
        command = [sys.executable, "-m", "flows.serving", "--data", str(data), "--model", str(model), "--port", port]
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=log)
        self.pid = self._process.pid
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(self.address + "/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """End the process by SIGTERM, and return its exit code."""
        self._process.terminate()
        return self._process.wait(60)


@contextlib.contextmanager
def running(data: Path, model: Path, *arguments: str) -> Iterator[ServerProcess]:
    """A server as long as the block."""
    server = ServerProcess(data, model, *arguments)
    try:
        yield server
    finally:
        server.kill()


def kill_amid_votes(data: Path, model: Path, num_streams: int, num_votes: int) -> dict[str, int]:
    """Kill a server amid streams and votes, start it again, and send all votes again. Returns counts."""
    acknowledged: set[str] = set()
    with running(data, model, "--max-batch", str(num_streams), "--max-queue", str(num_streams)) as server:
        answers = two_answers(server.address, str(model))
        num_open = asyncio.run(_kill_amid(server, str(model), num_streams, num_votes, answers, acknowledged))
    before, folder = set(acknowledged), data / FOLDER
    lost = len(before - {str(record["id"]) for record in FeedbackLog(folder).records()})
    with running(data, model) as server:
        asyncio.run(_vote_again(server.address, num_votes, answers, acknowledged))
        assert server.stop() == 0, "the server does not end in order"
    ids = [str(record["id"]) for record in FeedbackLog(folder).records()]
    return {
        "streams": num_open, "votes": num_votes, "acknowledged_before_kill": len(before),
        "lost": lost + num_votes - len(set(ids)), "doubled": len(ids) - len(set(ids)),
    }  # fmt: skip


async def _kill_amid(
    server: ServerProcess, model: str, num_streams: int, num_votes: int, answers: Rows, acknowledged: set[str]
) -> int:
    is_open: set[int] = set()

    async def stream(client: httpx.AsyncClient, number: int) -> None:
        body = {**REQUEST, "model": model, "stream": True, "max_tokens": STREAM_TOKENS, "ignore_eos": True}
        with contextlib.suppress(httpx.HTTPError):
            async with client.stream("POST", CHAT, json={k: v for k, v in body.items() if k != "prompt"}) as response:
                async for _ in response.aiter_raw():
                    is_open.add(number)
            is_open.discard(number)

    async def kill(voters: list[asyncio.Task[None]]) -> int:
        while len(acknowledged) < SHARE_BEFORE_KILL * num_votes:
            assert not all(one.done() for one in voters), "the votes were not acknowledged"
            await asyncio.sleep(0)
        server.kill()
        return len(is_open)

    limits = httpx.Limits(max_connections=num_streams + NUM_VOTERS)
    async with httpx.AsyncClient(base_url=server.address, timeout=SECONDS, cookies=COOKIES, limits=limits) as client:
        streams = [asyncio.create_task(stream(client, number)) for number in range(num_streams)]
        until = time.monotonic() + SECONDS
        while len(is_open) < num_streams:
            assert time.monotonic() < until, f"only {len(is_open)} streams are open"
            await asyncio.sleep(0.01)
        numbers = [range(first, num_votes, NUM_VOTERS) for first in range(NUM_VOTERS)]
        voters = [asyncio.create_task(_vote(client, own, answers, acknowledged)) for own in numbers]
        num_open = await kill(voters)
        await asyncio.gather(*streams, *voters)
    return num_open


def two_answers(address: str, model: str) -> Rows:
    """Two answers of a model, as the page sends them with a vote."""
    body = {"model": model, "messages": PROMPT, "max_tokens": 2, "n": 2}
    reply = httpx.post(address + CHAT, json=body, timeout=SECONDS).raise_for_status().json()
    about = {"model": reply["model"], "version": reply["system_fingerprint"].removeprefix("fp_")}
    return [
        {**about, "text": one["message"]["content"], "finish_reason": one["finish_reason"],
         "signature": one["signature"]} for one in reply["choices"]
    ]  # fmt: skip


async def _vote(client: httpx.AsyncClient, numbers: range, answers: Rows, acknowledged: set[str]) -> None:
    """Send votes until the server does not answer."""
    with contextlib.suppress(httpx.HTTPError):
        for number in numbers:
            response = await client.post(VOTES, json={**VOTE, "answers": answers, "id": f"vote-{number:04}"})
            response.raise_for_status()
            acknowledged.add(str(response.json()["id"]))


async def _vote_again(address: str, num_votes: int, answers: Rows, acknowledged: set[str]) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=SECONDS, cookies=COOKIES) as client:
        await _vote(client, range(num_votes), answers, acknowledged)


def bad_request(rng: random.Random, answers: Rows) -> tuple[str, bytes]:
    """A path with a body that is wrong in one or several places."""
    path = rng.choice((CHAT, COMPLETIONS, VOTES))
    body: dict[str, Any] = {**VOTE, "answers": answers, "id": "vote-9999"} if path == VOTES else dict(REQUEST)
    fields = [*VOTE, "answers", "id", "ranks", "item"] if path == VOTES else FIELDS
    for _ in range(rng.randint(1, 3)):
        body[rng.choice(fields)] = rng.choice(VALUES)
    if rng.random() < 0.3:
        body["messages"] = [{"role": rng.choice(["user", "x", None]), "content": rng.choice(VALUES)}]
    text = json.dumps(body).encode()
    if rng.random() < 0.25:
        cut = rng.randrange(len(text))
        text = rng.choice((text[:cut], text + b"}", b"\xff\xfe" + text, b"[" * 5000, rng.randbytes(40), b"NaN", b"[]"))
    return path, text


def send_malformed(address: str, count: int) -> dict[str, int]:
    """Send malformed requests, then bytes that are no HTTP. Returns counts; the server answers requests afterwards."""
    rng, statuses, without_form = random.Random(0), list[int](), 0
    with httpx.Client(base_url=address, timeout=SECONDS, cookies=COOKIES) as client:
        answers = two_answers(address, client.get("/v1/models").json()["data"][0]["id"])
        for number in range(count):
            path, body = bad_request(rng, answers)
            kind = "application/json" if number % 20 else rng.choice(("text/plain", "application/json; charset=utf-8"))
            response = client.post(path, content=body, headers={"content-type": kind})
            statuses.append(response.status_code)
            is_error = response.status_code != 200
            without_form += is_error and set(response.json()["error"]) != {"message", "type", "param", "code"}
    statuses += [asyncio.run(_send_raw(address, raw)) for raw in RAW_REQUESTS]
    assert httpx.get(address + "/health", timeout=SECONDS).status_code == 200, "the server does not answer anymore"
    return {
        "malformed": len(statuses), "refused": sum(400 <= status < 500 for status in statuses),
        "server_errors": sum(status >= 500 for status in statuses), "without_form": without_form,
    }  # fmt: skip


async def _send_raw(address: str, raw: bytes) -> int:
    """The status with which bytes are answered; 0 if the connection is closed, or nothing is answered."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(raw)
        line = await asyncio.wait_for(reader.readline(), 2)
    except (OSError, TimeoutError):
        return 0
    finally:
        writer.close()
    return int(line.split()[1]) if line else 0


def memory_with_clients(address: str, pid: int, num_slow: int, num_leaving: int, num_rounds: int) -> dict[str, Any]:
    """Rounds of slow clients and clients that leave, all at once; the growth of memory after the first round in MB."""
    sizes = []
    for _ in range(num_rounds):
        asyncio.run(_slow_and_leaving(address, num_slow, num_leaving))
        sizes.append(psutil.Process(pid).memory_info().rss / 1e6)
    return {
        "slow_clients": num_slow * num_rounds, "clients_that_left": num_leaving * num_rounds,
        "memory_mb": [round(size, 1) for size in sizes], "memory_growth_mb": round(sizes[-1] - sizes[0], 1),
    }  # fmt: skip


async def _slow_and_leaving(address: str, num_slow: int, num_leaving: int) -> None:
    async def read(client: httpx.AsyncClient, model: str, num_lines: int, pause: float) -> None:
        body = {"model": model, "messages": PROMPT, "stream": True, "max_tokens": 100, "ignore_eos": True}
        async with client.stream("POST", CHAT, json=body) as response:
            assert response.status_code == 200, await response.aread()
            count = 0
            async for _ in response.aiter_lines():
                count += 1
                if count == num_lines:
                    return
                await asyncio.sleep(pause)

    async with httpx.AsyncClient(
        base_url=address, timeout=SECONDS, limits=httpx.Limits(max_connections=None)
    ) as client:
        model = (await client.get("/v1/models")).json()["data"][0]["id"]
        slow = [read(client, model, SLOW_LINES, SLOW_SECONDS) for _ in range(num_slow)]
        await asyncio.gather(*slow, *(read(client, model, 1, 0) for _ in range(num_leaving)))
        await _until_idle(client)


async def _until_idle(client: httpx.AsyncClient) -> None:
    until = time.monotonic() + SECONDS
    while True:
        lines = (await client.get("/metrics")).text.splitlines()
        if all(float(line.split()[-1]) == 0 for line in lines if line.startswith("athanor_requests_running{")):
            return
        assert time.monotonic() < until, "answers are still written"
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    main()
