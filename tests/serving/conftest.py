"""A server with two tiny models, and the official client of the protocol."""

from collections.abc import Iterator

import openai
import pytest

from flows.serving.state import State
from tests.evaluation import small
from tests.serving.running import server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, State]]:
    with server(small.write_project(tmp_path_factory.mktemp("data")), "sft", "ppo") as pair:
        yield pair


@pytest.fixture(scope="module")
def client(running: tuple[str, State]) -> openai.OpenAI:
    return openai.OpenAI(base_url=running[0] + "/v1", api_key="unused", max_retries=0, timeout=30)
