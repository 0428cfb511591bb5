"""The server beside those of transformers and llama.cpp, on the same weights, one after another on one core.

    make bench NAME=serving

`tokens_per_cpu_s`: 1, 8 and 32 clients receive answers of 128 tokens to different prompts, greedily, as streams. The
CPU seconds are those of the server's process, HTTP included. The weights are those of data/models/ppo, or of the folder
in ATHANOR_MODEL; llama.cpp reads them as GGUF in fp32 and q8_0 (its server in the package xllamacpp, in an environment
of its own). `checks` and `passed` count the tests of the protocol with the official client.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import peers
from benchmarks.export import REQUIREMENTS
from benchmarks.peers import ONE_CORE

STREAMS = (1, 8, 32)
NUM_TOKENS, NUM_WARM_UP, RUNS = 128, 8, 1
START_SECONDS, MIN_RATIO, MAX_FIRST_TOKEN_MS, MIN_CHECKS = 240, 3.0, 150.0, 60
QUESTIONS = ("What is {}?", "翻译成英文：{}", "Translate into Chinese: {}", "Tell me a story about the number {}.")


def prompts(count: int, seed: int) -> list[str]:
    """Different questions."""
    return [QUESTIONS[i % len(QUESTIONS)].format(1000 * seed + 37 * i) for i in range(count)]


def endless_copy(source: Path, folder: Path) -> Path:
    """A copy of a model folder whose answers do not end early, so that all servers write the same number of tokens."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("manifest.json", "athanor.json"))
    for name in ("config.json", "generation_config.json"):
        body = json.loads((folder / name).read_text())
        body["eos_token_id"] = body["pad_token_id"]  # padding is never the most probable token
        (folder / name).write_text(json.dumps(body))
    return folder


class Server:
    """A server in a process of its own, on one core."""

    def __init__(self, command: list[str], model: str, extra: dict[str, Any]) -> None:
        self.address, self._model, self._extra = f"http://127.0.0.1:{command[-1]}", model, extra
        env = os.environ | ONE_CORE | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # One client for all requests: a new one reads certificates first, which takes longer than a token.
        self._client = httpx.Client(base_url=self.address, timeout=600, limits=httpx.Limits(max_connections=64))
        until = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, f"{' '.join(command)} has ended"
            assert time.monotonic() < until, f"{' '.join(command)} does not answer"
            try:
                if httpx.get(self.address + "/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)

    def cpu_seconds(self) -> float:
        """CPU seconds of the process so far."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def answer(self, prompt: str, num_tokens: int = NUM_TOKENS) -> tuple[str, int, float]:
        """The text of an answer, its number of tokens, and the seconds until the first text."""
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}], "stream": True,
                "temperature": 0, "max_tokens": num_tokens, "stream_options": {"include_usage": True}}  # fmt: skip
        begin, first, text, count = time.monotonic(), 0.0, "", 0
        with self._client.stream("POST", "/v1/chat/completions", json=body | self._extra) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                for choice in chunk["choices"]:
                    part = choice["delta"].get("content") or ""
                    first = first or (time.monotonic() - begin if part else 0.0)
                    text += part
                count = (chunk.get("usage") or {}).get("completion_tokens", count)
        return text, count, first

    def rate(self, streams: int, seed: int) -> float:
        """Tokens per CPU second with so many clients at once."""
        counts = [0] * streams
        questions = prompts(streams, seed)

        def work(index: int) -> None:
            counts[index] = self.answer(questions[index])[1]

        before = self.cpu_seconds()
        threads = [threading.Thread(target=work, args=(index,)) for index in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert min(counts) >= NUM_TOKENS - 1, f"an answer has {min(counts)} tokens"
        return sum(counts) / (self.cpu_seconds() - before)

    def measure(self) -> dict[str, float]:
        """Tokens per CPU second by the number of streams, the best of RUNS."""
        for question in prompts(2, 9):
            self.answer(question, NUM_WARM_UP)
        return {str(n): round(max(self.rate(n, seed) for seed in range(1, RUNS + 1)), 1) for n in STREAMS}

    def stop(self) -> None:
        """End the process."""
        self._client.close()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()


def of_llama_cpp(source: Path, precision: str, folder: Path) -> dict[str, float]:
    """Tokens per CPU second of llama.cpp with these weights in this precision."""
    command = [sys.executable, "-m", "flows.export", str(source), "--to", f"gguf-{precision}", "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (file,) = folder.glob("*.gguf")
    python = peers.python("llama.cpp", REQUIREMENTS)
    script = Path(__file__).with_name("serving_peers.py")
    server = Server([str(python), str(script), str(file), free_port()], source.name, {"ignore_eos": True})
    try:
        return server.measure()
    finally:
        server.stop()


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def is_equal_to_generate(server: Server, folder: Path) -> bool:
    """Whether 32 answers that were written at once are those of `generate`, compared as text of the same tokens."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    questions, texts = prompts(32, 5), [""] * 32

    def work(index: int) -> None:
        texts[index] = server.answer(questions[index], 48)[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = []
    for question in questions:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**ids, max_new_tokens=48, do_sample=False)
        expected.append(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts == expected


def protocol_checks() -> tuple[int, int]:
    """The number of checks of the protocol, and how many pass."""
    files = sorted(map(str, Path("tests/serving").glob("test_protocol*.py")))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files]
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", output)}
    return sum(found.values()), found.get("passed", 0)


def main() -> None:
    """Measure, and print one JSON object."""
    source = Path(os.environ.get("ATHANOR_MODEL", "data/models/ppo"))
    if not (source / "config.json").is_file():
        print(json.dumps({"passed": 0, "missing": f"no model in {source}: run `make run`, or set ATHANOR_MODEL"}))
        raise SystemExit(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = endless_copy(source, Path(temporary) / "model")
        ours = Server(
            [sys.executable, "-m", "flows.serving", "--model", str(folder), "--data", temporary, "--port", free_port()],
            str(folder), {"ignore_eos": True},
        )  # fmt: skip
        try:
            tokens = {"athanor": ours.measure()}
            first_token = sorted(ours.answer(question, 4)[2] for question in prompts(9, 7))[4]
            equal = is_equal_to_generate(ours, folder)
        finally:
            ours.stop()
        theirs = Server(
            [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu",
             "--port", free_port()], str(folder), {},
        )  # fmt: skip
        try:
            tokens["transformers"] = theirs.measure()
        finally:
            theirs.stop()
        for precision in ("fp32", "q8_0"):
            tokens[f"llama.cpp {precision}"] = of_llama_cpp(source, precision, Path(temporary) / precision)
    checks, passed = protocol_checks()
    ratio, of_llama = (tokens["athanor"]["8"] / tokens[name]["8"] for name in ("transformers", "llama.cpp fp32"))
    result = {
        "tokens_per_cpu_s": tokens, "vs_transformers": round(ratio, 2), "vs_llama_cpp": round(of_llama, 2),
        "equal_to_generate": int(equal),
        "first_token_ms": round(1000 * first_token, 1), "checks": checks, "passed": passed,
        "promises_kept": ratio >= MIN_RATIO and equal and 1000 * first_token <= MAX_FIRST_TOKEN_MS
        and checks >= MIN_CHECKS and passed == checks,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
