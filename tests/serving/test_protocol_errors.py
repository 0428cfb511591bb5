"""The protocol by the official client: completions, and requests that are refused."""

from typing import Any

import httpx
import openai
import pytest

from flows.serving.state import State
from tests.evaluation import small
from tests.serving.requests import GREEDY, MESSAGES, chat, complete
from tests.serving.running import post


class TestCompletions:
    def test_object(self, client: openai.OpenAI) -> None:
        answer = complete(client)
        assert answer.object == "text_completion"
        assert answer.id.startswith("cmpl-")
        assert answer.choices[0].logprobs is None

    def test_default_of_16_tokens(self, client: openai.OpenAI) -> None:
        answer = complete(client, max_tokens=openai.omit, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 16

    def test_ids_are_the_text(self, client: openai.OpenAI) -> None:
        assert complete(client, prompt=small.encode("say one")).choices[0].text == complete(client).choices[0].text

    def test_several_texts(self, client: openai.OpenAI) -> None:
        answer = complete(client, prompt=["say one", "say two"], n=2, temperature=1, seed=1)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        assert answer.usage.prompt_tokens == len(small.encode("say one")) * 2

    def test_several_lists_of_ids(self, client: openai.OpenAI) -> None:
        answer = complete(client, prompt=[small.encode("say one"), small.encode("two")])
        assert answer.choices[0].text == complete(client).choices[0].text
        assert answer.choices[1].text == complete(client, prompt="two").choices[0].text

    def test_echo(self, client: openai.OpenAI) -> None:
        assert complete(client, echo=True).choices[0].text == "say one" + complete(client).choices[0].text

    def test_log_probs_of_the_prompt(self, client: openai.OpenAI) -> None:
        """As lm-evaluation-harness asks for them: the first token has none, the answer's token comes last."""
        logprobs = complete(client, echo=True, logprobs=1, max_tokens=1).choices[0].logprobs
        assert len(logprobs.tokens) == len(small.encode("say one")) + 1
        assert logprobs.token_logprobs[0] is None
        assert logprobs.top_logprobs[0] is None
        assert all(value <= 0 for value in logprobs.token_logprobs[1:])
        assert logprobs.text_offset == list(range(len(logprobs.tokens)))
        assert "".join(logprobs.tokens[:-1]) == "say one"

    def test_only_the_prompt(self, client: openai.OpenAI) -> None:
        answer = complete(client, echo=True, logprobs=0, max_tokens=0)
        assert (answer.choices[0].text, answer.usage.completion_tokens) == ("say one", 0)
        assert len(answer.choices[0].logprobs.tokens) == 7

    def test_log_probs_of_the_answer(self, client: openai.OpenAI) -> None:
        logprobs = complete(client, logprobs=2).choices[0].logprobs
        assert len(logprobs.token_logprobs) == 12
        assert all(1 <= len(top) <= 2 for top in logprobs.top_logprobs), "two tokens may have one text"

    def test_stream(self, client: openai.OpenAI) -> None:
        chunks = list(complete(client, stream=True, echo=True, stream_options={"include_usage": True}))
        text = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)
        assert text == complete(client, echo=True).choices[0].text
        assert chunks[-1].usage.completion_tokens == 12

    def test_stop(self, client: openai.OpenAI) -> None:
        answer = complete(client, stop="a", logit_bias={str(small.encode("a")[0]): 100})
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("", "stop")


BAD: list[tuple[str, dict[str, Any], str | None]] = [
    ("temperature too high", {"temperature": 2.5}, "temperature"),
    ("temperature as text", {"temperature": "0"}, "temperature"),
    ("temperature below zero", {"temperature": -1}, "temperature"),
    ("top_p above one", {"top_p": 1.1}, "top_p"),
    ("n of zero", {"n": 0}, "n"),
    ("n too large", {"n": 1000}, "n"),
    ("n as boolean", {"n": True}, "n"),
    ("no tokens", {"max_tokens": 0}, "max_tokens"),
    ("no messages", {"messages": []}, "messages"),
    ("messages as text", {"messages": "hi"}, "messages"),
    ("unknown role", {"messages": [{"role": "king", "content": "hi"}]}, "messages.0.role"),
    ("tool message", {"messages": [{"role": "tool", "content": "1"}]}, "messages.0.role"),
    ("image", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
    ("unknown field", {"temperatur": 1}, "temperatur"),
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ("JSON mode", {"response_format": {"type": "json_object"}}, "response_format.type"),
    ("top_logprobs alone", {"top_logprobs": 2}, None),
    ("too many top_logprobs", {"logprobs": True, "top_logprobs": 50}, "top_logprobs"),
    ("stream_options alone", {"stream_options": {"include_usage": True}}, None),
    ("bias of a word", {"logit_bias": {"hello": 1}}, "logit_bias"),
    ("bias of an unknown token", {"logit_bias": {"99999": 1}}, "logit_bias"),
    ("bias too large", {"logit_bias": {"5": 101}}, "logit_bias"),
    ("empty stop", {"stop": [""]}, "stop"),
    ("penalty too large", {"frequency_penalty": 3}, "frequency_penalty"),
]


class TestErrors:
    @pytest.mark.parametrize(("changes", "param"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
    def test_bad_value(self, running: tuple[str, State], changes: dict[str, Any], param: str | None) -> None:
        response = post(running[0], json={**GREEDY, "messages": MESSAGES, **changes})
        error = response.json()["error"]
        assert response.status_code == 400
        assert error["type"] == "invalid_request_error"
        assert param is None or error["param"] == param
        assert set(error) == {"message", "type", "param", "code"}

    def test_context_length(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as error:
            chat(client, messages=[{"role": "user", "content": "x" * 200}])
        assert error.value.code == "context_length_exceeded"

    def test_context_length_with_the_answer(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as error:
            chat(client, max_tokens=127)
        assert error.value.code == "context_length_exceeded"

    def test_unknown_model(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as error:
            chat(client, model="gpt-4")
        assert error.value.code == "model_not_found"
        assert "sft, ppo" in str(error.value)

    def test_missing_messages(self, running: tuple[str, State]) -> None:
        error = post(running[0], json={"model": "sft"}).json()["error"]
        assert (error["code"], error["param"]) == ("missing_required_parameter", "messages")

    def test_no_json(self, running: tuple[str, State]) -> None:
        response = post(running[0], content=b"{", headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")

    def test_other_content_type(self, running: tuple[str, State]) -> None:
        assert post(running[0], content=b"{}", headers={"content-type": "text/plain"}).status_code == 415

    def test_unknown_path(self, running: tuple[str, State]) -> None:
        response = httpx.get(running[0] + "/v1/nothing")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")

    def test_wrong_method(self, running: tuple[str, State]) -> None:
        assert httpx.get(running[0] + "/v1/chat/completions").status_code == 405

    def test_token_ids_outside_the_vocabulary(self, client: openai.OpenAI) -> None:
        for ids in ([5, 100_000], [-1]):
            with pytest.raises(openai.BadRequestError):
                complete(client, prompt=ids)

    def test_empty_prompt(self, client: openai.OpenAI) -> None:
        empty: tuple[Any, ...] = ("", [], [[]])
        for prompt in empty:
            with pytest.raises(openai.BadRequestError):
                complete(client, prompt=prompt)

    def test_best_of(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError):
            complete(client, best_of=4)
