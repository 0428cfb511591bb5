"""The server around the protocol: who may use it, limits, clients that leave, new versions of a model."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from flows.serving import __main__ as command
from flows.serving import answer_filter as filters
from flows.serving import app, ending
from flows.serving.delivery import Limits
from flows.serving.guard import LOOPBACK
from flows.serving.state import State
from tasks import models
from tasks.errors import BadParams
from tasks.serving import EngineParams
from tests.evaluation import small
from tests.serving.running import post, server, wait_until_idle

BODY: dict[str, Any] = {"model": "sft", "messages": [{"role": "user", "content": "say one"}], "temperature": 0}
LONG = {**BODY, "max_tokens": 100, "ignore_eos": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_project(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def running(data: Path) -> Iterator[tuple[str, State]]:
    with server(data, max_body_bytes=20_000) as pair:
        yield pair


def test_health_and_metrics(running: tuple[str, State]) -> None:
    assert httpx.get(running[0] + "/health").json() == {"status": "ok"}
    post(running[0], json=BODY)
    text = httpx.get(running[0] + "/metrics").text
    assert 'athanor_requests_total{model="sft"}' in text
    assert 'athanor_http_requests_total{path="/v1/chat/completions",status="200"}' in text
    assert 'athanor_requests_running{model="sft"} 0' in text


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "evil.example:8000"])
def test_other_names_of_this_machine_are_refused(running: tuple[str, State], host: str) -> None:
    """A page whose name was made to point to 127.0.0.1 must not reach the model."""
    assert httpx.get(running[0] + "/v1/models", headers={"host": host}).status_code in (400, 421)


def test_pages_of_other_sites_are_refused(running: tuple[str, State]) -> None:
    address, _ = running
    for origin in ("http://evil.example", "null", address.replace("127.0.0.1", "localhost")):
        assert post(address, json=BODY, headers={"origin": origin}).status_code == 403
    assert post(address, json=BODY, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    response = post(address, json=BODY, headers={"origin": address})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers
    assert httpx.options(address + "/v1/chat/completions").status_code == 405


def test_a_key(data: Path) -> None:
    with server(data, key="secret") as (address, _):
        client = openai.OpenAI(base_url=address + "/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as error:
            client.models.list()
        assert error.value.code == "invalid_api_key"
        assert httpx.get(address + "/v1/models").status_code == 401
        assert httpx.get(address + "/metrics").status_code == 401
        assert httpx.get(address + "/health").status_code == 200
        assert client.with_options(api_key="secret").models.list().data[0].id == "sft"


def test_only_loopback_without_a_key() -> None:
    args = command.parse(["--host", "0.0.0.0"])
    with pytest.raises(BadParams, match="ATHANOR_API_KEY"):
        command.check(args, None)
    command.check(args, "secret")


@pytest.mark.parametrize(
    "line",
    [
        "--models sft --share 0.1", "--models a,b --share nan", "--models a,a", "--models a,", "--compare-share 5",
        "--overlap nan", "--filter-threshold -1", "--max-batch 0", "--max-queue -1", "--max-new-tokens 0",
        "--timeout 0", "--watch -1", "--port 99999", "--port -1",
    ],
)  # fmt: skip
def test_values_that_no_server_can_use(line: str) -> None:
    """The sentence names the argument."""
    command.check(command.parse([]), None)
    with pytest.raises(BadParams, match=line.split()[-2]):
        command.check(command.parse(line.split()), None)


def test_a_large_body(running: tuple[str, State]) -> None:
    response = post(running[0], json={**BODY, "user": "x" * 30_000})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


def slow_round(state: State) -> None:
    state.delivery.flush()
    time.sleep(0.05)


def test_a_server_that_is_ended_ends_its_answers_in_order(
    data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stream that is not complete in time ends with an error of the protocol, and nothing is cut."""
    monkeypatch.setattr(ending, "ANSWER_SECONDS", 0.1)
    with server(data, limits=Limits(max_new_tokens=200)) as (_, state):
        monkeypatch.setattr(state.registry.all()[0].engine, "_on_round", partial(slow_round, state))
        application = app.build(state, None, LOOPBACK)
        running = ending.Server(application, state.registry.close, port=0, log_level="warning", lifespan="off")
        thread = threading.Thread(target=lambda: asyncio.run(running.serve()), daemon=True)
        thread.start()
        while not running.started:
            time.sleep(0.01)
        port = running.servers[0].sockets[0].getsockname()[1]
        body = {**LONG, "stream": True}
        with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            next(lines)
            running.should_exit = True
            last = [line for line in lines if line][-2:]
        thread.join(20)
        assert not thread.is_alive()
    assert "the server stops" in last[0]
    assert last[1] == "data: [DONE]"
    assert "Traceback" not in capfd.readouterr().err


def test_a_full_queue_is_429(data: Path) -> None:
    with server(data, params=EngineParams(max_batch=1, max_queue=0)) as (address, state):
        client = openai.OpenAI(base_url=address + "/v1", api_key="unused", max_retries=0)
        with pytest.raises(openai.RateLimitError) as error:
            client.chat.completions.create(**{**BODY, "n": 2})
        assert error.value.response.headers["retry-after"] == "1"
        wait_until_idle(state)
        assert client.chat.completions.create(**BODY).choices


def test_a_request_that_takes_too_long(data: Path) -> None:
    with server(data, limits=Limits(seconds=0.02)) as (address, _):
        response = post(address, json=LONG)
        assert (response.status_code, response.json()["error"]["code"]) == (408, "timeout")
        assert '"code":"timeout"' in post(address, json={**LONG, "stream": True}).text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_answers(running: tuple[str, State], stream: bool) -> None:
    address, state = running
    engine = state.registry.all()[0].engine
    before = engine.counts["canceled"]
    body = {**LONG, "n": 4, "stream": stream}
    if stream:
        with httpx.stream("POST", address + "/v1/chat/completions", json=body, timeout=30) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(address + "/v1/chat/completions", json={**body, "n": 16}, timeout=0.03)
    wait_until_idle(state)
    assert engine.counts["canceled"] > before


def test_a_new_version_replaces_the_old_one_and_its_streams_go_on(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "models/sft", tmp_path / "models/sft")
    with server(tmp_path) as (address, state):
        old = state.registry.all()[0]
        with httpx.stream("POST", address + "/v1/chat/completions", json={**LONG, "stream": True}) as response:
            lines = response.iter_lines()
            next(lines)
            assert _replace(state) == [], "the files are the same"
            shutil.rmtree(tmp_path / "models/sft")
            assert _replace(state) == [], "a folder that is being written is not loaded"
            models.save(tmp_path / "models/sft", small.causal(99), small.tokenizer(), {"stage": "sft"})
            assert _replace(state) == ["sft"]
            text = "\n".join(lines)
        assert text.count(f"fp_{old.version}") > 20
        assert text.rstrip().endswith("[DONE]")
        new = state.registry.all()[0]
        assert new.version != old.version
        assert post(address, json=BODY).json()["system_fingerprint"] == f"fp_{new.version}"
        _replace(state)
        assert not old.engine.is_alive


def _replace(state: State) -> list[str]:
    import asyncio

    return asyncio.run(state.registry.replace_changed())


def test_a_share_of_the_requests_is_answered_by_the_candidate(data: Path) -> None:
    with server(data, "sft", "ppo", share=0.3) as (address, _):
        answered = [post(address, json={**BODY, "max_tokens": 1}).json()["model"] for _ in range(60)]
        assert 5 <= answered.count("ppo") <= 35
        by_user = {user: {_model(address, user) for _ in range(3)} for user in "abcdefgh"}
        assert all(len(names) == 1 for names in by_user.values()), "a user stays with one model"
        assert _model(address, "a", "ppo") == "ppo"


def _model(address: str, user: str, model: str = "sft") -> str:
    return str(post(address, json={**BODY, "model": model, "max_tokens": 1, "user": user}).json()["model"])


class _Letters:
    def label(self, text: str) -> str | None:
        return "letters" if "a" in text else None


def test_a_filter_blocks_answers(data: Path) -> None:
    """A blocked answer says so; nothing of it is sent before."""
    bias = {str(small.encode("a")[0]): 100}
    with server(data, filter=_Letters()) as (address, _):
        choice = post(address, json={**BODY, "logit_bias": bias}).json()["choices"][0]
        assert choice["finish_reason"] == "content_filter"
        assert choice["message"]["content"] == "[This answer was blocked by the filter: letters.]"
        stream = post(address, json={**BODY, "logit_bias": bias, "stream": True}).text
        assert "blocked by the filter" in stream
        assert '"content_filter"' in stream
        assert "aaa" not in stream
        free = {**BODY, "logit_bias": {str(small.encode("b")[0]): 100}, "max_tokens": 3}
        assert post(address, json=free).json()["choices"][0]["message"]["content"] == "bbb"
        assert '"content":"b"' in post(address, json={**free, "stream": True}).text


def test_the_shipped_spam_classifier_as_a_filter() -> None:
    spam = filters.load(Path("tasks/curation/classifier/spam.safetensors"), 0.5)
    assert spam.label("WIN A FREE PRIZE!!! Call 0900-123-456 now, casino bonus, click http://win.example") == "spam"
    assert spam.label("three thousand eight hundred.") is None
