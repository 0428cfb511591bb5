"""10,000 synthetic instructions from a mock endpoint, while the run is killed 50 times (kill -9) and continued.

    make bench NAME=synthetic

The endpoint counts what it charges for; it knows `Idempotency-Key`, answers some requests with 429 or 500, and closes
some connections. lost: instructions without a record at the end. doubled: requests that were charged twice or stored
twice. sent_again: requests that were in flight during a kill or got an error, and were sent once more, free of charge.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flows import synthesis as command
from tasks import synthesis

NUM_REQUESTS, KILLS, ERROR_SHARE = 10_000, 50, 0.01


def main() -> None:
    """Print progress on stderr and one JSON line last."""
    with TemporaryDirectory() as folder:
        counter = multiprocessing.Value("i", 0)
        stop, parent = multiprocessing.Pipe()
        server = multiprocessing.Process(target=serve, args=(counter, stop))
        server.start()
        port = parent.recv()
        params = settings(Path(folder), port)
        start, kills = time.monotonic(), 0
        rng = random.Random(0)
        limits = sorted(rng.sample(range(50, NUM_REQUESTS - 50), KILLS))
        while not run_once(params, limits[kills] if kills < KILLS else None, counter):
            kills += 1
            print(f"{kills} kills, {counter.value} requests charged", file=sys.stderr, flush=True)
        parent.send("stop")
        charges, num_received = parent.recv()
        server.join()
        print(json.dumps(summary(params, charges, num_received, kills, time.monotonic() - start)))


def summary(
    params: synthesis.Params, charges: dict[str, int], num_received: int, kills: int, seconds: float
) -> dict[str, Any]:
    """What was made and what was paid."""
    records = [json.loads(line) for line in (params.output / command.RECORDS).read_text("utf-8").splitlines()]
    made = {record["instruction"] for record in records}
    expected = {evolved(seed) for seed in seeds()}
    stored: Counter[str] = Counter()
    for line in (params.output / "replies.jsonl").read_bytes().splitlines():
        try:
            stored[json.loads(line)["key"]] += 1
        except ValueError:
            continue  # cut off by a kill
    doubled = sum(count > 1 for count in charges.values()) + sum(count > 1 for count in stored.values())
    return {
        "requests": len(charges), "kills": kills, "records": len(records), "lost": len(expected - made),
        "doubled": doubled + len(records) - len(made), "sent_again": num_received - len(charges),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def run_once(params: synthesis.Params, kill_at: int | None, counter: Any) -> bool:
    """Run the synthesis in a process of its own, and kill it when the endpoint has charged `kill_at` requests.

    Returns whether it ended by itself.
    """
    child = os.fork()
    if child == 0:
        try:
            command.run(params)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, "the synthesis failed"
            return True
        if kill_at is not None and counter.value >= kill_at:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


def settings(folder: Path, port: int) -> synthesis.Params:
    """The settings of the run, with its seeds in a file."""
    file = folder / "seeds.txt"
    file.write_text("".join(f"{seed}\n" for seed in seeds()), encoding="utf-8")
    endpoint = {"base_url": f"http://127.0.0.1:{port}/v1", "model": "mock", "license": "mock answers, no restriction",
                "retry_seconds": 0.01, "num_connections": 8}  # fmt: skip
    body = {"endpoint": endpoint, "recipe": "evolve", "seeds": file, "output": folder / "synthetic", "answer": False}
    return synthesis.Params.model_validate(body)


def seeds() -> list[str]:
    """Different instructions."""
    rng = random.Random(1)
    return [f"Explain {number_in_words(n)} in the context of {rng.randrange(10**9)}." for n in range(NUM_REQUESTS)]


def number_in_words(n: int) -> str:
    """Two words for a number, different for each."""
    return f"subject{n // 100} part{n % 100}"


def evolved(seed: str) -> str:
    """What the mock model answers."""
    words = sum(map(ord, seed))
    return f"{seed.removesuffix('.')} for a reader called {seed[-9:-1]} with {words} questions {seed[::-1][1:12]}."


def serve(counter: Any, pipe: Any) -> None:
    """The mock endpoint, until the pipe says stop; then it sends its charges by key, and the number of requests."""
    charges: Counter[str] = Counter()
    received: list[str] = []
    lock, rng = threading.Lock(), random.Random(2)

    class Handler(BaseHTTPRequestHandler):
        """Answers chat completions."""

        def do_POST(self) -> None:
            """Charge for a request unless its key was charged, and answer it."""
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            key = self.headers["Idempotency-Key"]
            with lock:
                received.append(key)
                chance = rng.random()
                if chance >= 2 * ERROR_SHARE and not charges[key]:
                    charges[key] += 1
                    counter.value += 1
            if chance < ERROR_SHARE:
                self.send_error(429 if chance < ERROR_SHARE / 2 else 500)
                return
            if chance < 2 * ERROR_SHARE:
                return  # the connection closes without an answer
            seed = body["messages"][0]["content"].split("\n\n", 1)[1]
            message = {"role": "assistant", "content": evolved(seed)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 40, "completion_tokens": 20}
            content = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        """Does not print the errors of clients that were killed."""

        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that was killed closes its connection."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_address[1])
    pipe.recv()
    pipe.send((dict(charges), len(received)))
    server.shutdown()


if __name__ == "__main__":
    main()
