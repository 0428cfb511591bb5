"""The protocol by the official client: every check is one test, so that their number can be counted."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from flows.serving.state import State
from tests.evaluation import small
from tests.serving.running import post, server

MESSAGES: Any = [{"role": "user", "content": "say one"}]
GREEDY: dict[str, Any] = {"model": "sft", "temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, State]]:
    with server(small.write_project(tmp_path_factory.mktemp("data")), "sft", "ppo") as pair:
        yield pair


@pytest.fixture(scope="module")
def client(running: tuple[str, State]) -> openai.OpenAI:
    return openai.OpenAI(base_url=running[0] + "/v1", api_key="unused", max_retries=0, timeout=30)


def chat(client: openai.OpenAI, **settings: Any) -> Any:
    return client.chat.completions.create(**{"messages": MESSAGES, **GREEDY, **settings})


def complete(client: openai.OpenAI, **settings: Any) -> Any:
    return client.completions.create(**{"prompt": "say one", **GREEDY, **settings})


def text_of(answer: Any, index: int = 0) -> str:
    return str(answer.choices[index].message.content)


def joined(stream: Any, index: int = 0) -> str:
    return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices if choice.index == index)


class TestModels:
    def test_list(self, client: openai.OpenAI) -> None:
        assert [model.id for model in client.models.list()] == ["sft", "ppo"]

    def test_fields(self, client: openai.OpenAI) -> None:
        model = client.models.retrieve("ppo")
        assert (model.object, model.owned_by) == ("model", "athanor")
        assert model.created > 0
        assert getattr(model, "max_model_len") == 128  # noqa: B009  (vLLM's field is not in the client's types)

    def test_unknown(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as error:
            client.models.retrieve("gpt-4")
        assert error.value.code == "model_not_found"


class TestChat:
    def test_object(self, client: openai.OpenAI) -> None:
        answer = chat(client)
        assert answer.object == "chat.completion"
        assert answer.id.startswith("chatcmpl-")
        assert answer.model == "sft"
        assert answer.system_fingerprint.startswith("fp_")

    def test_message(self, client: openai.OpenAI) -> None:
        choice = chat(client).choices[0]
        assert (choice.message.role, choice.index, choice.logprobs, choice.message.refusal) == (
            "assistant",
            0,
            None,
            None,
        )

    def test_usage(self, client: openai.OpenAI) -> None:
        usage = chat(client).usage
        assert usage.prompt_tokens == len(small.prompt_ids("say one"))
        assert usage.completion_tokens == 12
        assert usage.total_tokens == usage.prompt_tokens + 12

    def test_greedy_is_the_same_each_time(self, client: openai.OpenAI) -> None:
        assert text_of(chat(client)) == text_of(chat(client))

    def test_request_id(self, client: openai.OpenAI) -> None:
        assert chat(client)._request_id.startswith("req_")

    def test_length(self, client: openai.OpenAI) -> None:
        answer = chat(client, max_tokens=3)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 3

    def test_max_completion_tokens(self, client: openai.OpenAI) -> None:
        assert chat(client, max_tokens=openai.omit, max_completion_tokens=2).usage.completion_tokens == 2

    def test_the_newer_name_of_the_limit_counts(self, client: openai.OpenAI) -> None:
        assert chat(client, max_tokens=9, max_completion_tokens=2).usage.completion_tokens == 2

    def test_default_limit_of_the_server(self, client: openai.OpenAI) -> None:
        answer = chat(client, max_tokens=openai.omit, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == 40

    def test_end_token(self, client: openai.OpenAI) -> None:
        answer = chat(client, logit_bias={str(small.END): 100})
        assert (answer.choices[0].finish_reason, text_of(answer)) == ("stop", "")

    def test_ignore_eos(self, client: openai.OpenAI) -> None:
        answer = chat(client, logit_bias={str(small.END): 100}, extra_body={"ignore_eos": True})
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 12)

    def test_min_tokens(self, client: openai.OpenAI) -> None:
        answer = chat(client, logit_bias={str(small.END): 100}, extra_body={"min_tokens": 4})
        assert answer.usage.completion_tokens == 5

    def test_logit_bias_forces_a_token(self, client: openai.OpenAI) -> None:
        assert text_of(chat(client, logit_bias={str(small.encode("a")[0]): 100})) == "a" * 12

    def test_logit_bias_forbids_a_token(self, client: openai.OpenAI) -> None:
        first = chat(client, logprobs=True).choices[0].logprobs.content[0].bytes
        token = small.encode_text(chr(first[0]))[0] if first[0] < 128 else None
        if token is not None:
            other = chat(client, logprobs=True, logit_bias={str(token): -100}).choices[0].logprobs.content[0].bytes
            assert other != first

    def test_n(self, client: openai.OpenAI) -> None:
        answer = chat(client, n=3, temperature=1, seed=1)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert len({text_of(answer, index) for index in range(3)}) == 3
        assert answer.usage.completion_tokens <= 36
        assert answer.usage.prompt_tokens == len(small.prompt_ids("say one")), "a prompt counts once"

    def test_seed(self, client: openai.OpenAI) -> None:
        one, two, three = (text_of(chat(client, temperature=1, seed=seed)) for seed in (7, 7, 8))
        assert one == two != three

    def test_without_seed_answers_differ(self, client: openai.OpenAI) -> None:
        assert text_of(chat(client, temperature=2)) != text_of(chat(client, temperature=2))

    def test_top_p_of_zero_is_greedy(self, client: openai.OpenAI) -> None:
        assert text_of(chat(client, temperature=1, top_p=0)) == text_of(chat(client))

    def test_top_k_of_one_is_greedy(self, client: openai.OpenAI) -> None:
        assert text_of(chat(client, temperature=1, extra_body={"top_k": 1})) == text_of(chat(client))

    def test_min_p_of_one_is_greedy(self, client: openai.OpenAI) -> None:
        assert text_of(chat(client, temperature=1, extra_body={"min_p": 1.0})) == text_of(chat(client))

    def test_frequency_penalty(self, client: openai.OpenAI) -> None:
        bias = {str(token): 50 for token in small.encode("ab")}
        answer = text_of(chat(client, logit_bias=bias, frequency_penalty=2))
        assert set(answer) == {"a", "b"}

    def test_presence_penalty(self, client: openai.OpenAI) -> None:
        assert chat(client, presence_penalty=2).choices[0].message.content is not None

    def test_repetition_penalty(self, client: openai.OpenAI) -> None:
        assert chat(client, extra_body={"repetition_penalty": 1.5}).choices[0].message.content is not None

    def test_stop(self, client: openai.OpenAI) -> None:
        bias = {str(token): 50 for token in small.encode("ab")}
        answer = chat(client, logit_bias=bias, frequency_penalty=2, stop=["b"])
        assert "b" not in text_of(answer)
        assert answer.choices[0].finish_reason == "stop"

    def test_stop_as_a_text(self, client: openai.OpenAI) -> None:
        answer = chat(client, logit_bias={str(small.encode("a")[0]): 100}, stop="aaa")
        assert (text_of(answer), answer.choices[0].finish_reason) == ("", "stop")

    def test_developer_is_system(self, client: openai.OpenAI) -> None:
        system = [{"role": "system", "content": "be brief"}, *MESSAGES]
        developer = [{"role": "developer", "content": "be brief"}, *MESSAGES]
        assert text_of(chat(client, messages=system)) == text_of(chat(client, messages=developer))

    def test_parts(self, client: openai.OpenAI) -> None:
        parts = [{"role": "user", "content": [{"type": "text", "text": "say "}, {"type": "text", "text": "one"}]}]
        assert text_of(chat(client, messages=parts)) == text_of(chat(client))

    def test_several_turns(self, client: openai.OpenAI) -> None:
        turns = [*MESSAGES, {"role": "assistant", "content": "one"}, {"role": "user", "content": "say two"}]
        assert chat(client, messages=turns).usage.prompt_tokens > chat(client).usage.prompt_tokens

    def test_special_tokens_in_a_message_are_text(self, client: openai.OpenAI) -> None:
        messages = [{"role": "user", "content": "a<|end|>b"}]
        assert chat(client, messages=messages).usage.prompt_tokens == len(small.prompt_ids("ab")) + len("<|end|>")

    def test_shared_prefixes_are_reported(self, client: openai.OpenAI) -> None:
        messages = [{"role": "user", "content": "a text that is long enough to be kept"}]
        chat(client, messages=messages)
        assert chat(client, messages=messages).usage.prompt_tokens_details.cached_tokens > 8

    def test_log_probs(self, client: openai.OpenAI) -> None:
        content = chat(client, logprobs=True, top_logprobs=3).choices[0].logprobs.content
        assert len(content) == 12
        for token in content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 3
            assert token.top_logprobs[0].logprob == token.logprob, "greedy answers take the most probable token"

    def test_bytes_of_tokens_are_the_text(self, client: openai.OpenAI) -> None:
        answer = chat(client, logprobs=True, seed=3, temperature=1, extra_body={"ignore_eos": True})
        data = b"".join(bytes(token.bytes) for token in answer.choices[0].logprobs.content)
        special = ("<|pad|>", "<|document|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
        text = data.decode("utf-8", "replace")
        for name in special:
            text = text.replace(name, "")
        assert text_of(answer) == text

    def test_harmless_fields(self, client: openai.OpenAI) -> None:
        assert chat(client, user="me", metadata={"a": "b"}, store=False, service_tier="auto")

    def test_text_format(self, client: openai.OpenAI) -> None:
        assert chat(client, response_format={"type": "text"})

    def test_null_is_the_default(self, client: openai.OpenAI) -> None:
        assert text_of(chat(client, stop=None, n=None, seed=None, top_p=None)) == text_of(chat(client))


class TestStream:
    def test_text(self, client: openai.OpenAI) -> None:
        assert joined(chat(client, stream=True)) == text_of(chat(client))

    def test_first_chunk_has_the_role(self, client: openai.OpenAI) -> None:
        first = next(iter(chat(client, stream=True)))
        assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
        assert first.object == "chat.completion.chunk"

    def test_reason_only_at_the_end(self, client: openai.OpenAI) -> None:
        reasons = [choice.finish_reason for chunk in chat(client, stream=True) for choice in chunk.choices]
        assert reasons[-1] == "length"
        assert set(reasons[:-1]) == {None}

    def test_one_id(self, client: openai.OpenAI) -> None:
        assert len({chunk.id for chunk in chat(client, stream=True)}) == 1

    def test_no_usage_unless_asked(self, client: openai.OpenAI) -> None:
        assert all(chunk.usage is None for chunk in chat(client, stream=True))

    def test_usage_in_the_last_chunk(self, client: openai.OpenAI) -> None:
        chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
        assert chunks[-1].choices == []
        assert chunks[-1].usage.completion_tokens == 12
        assert all(chunk.usage is None for chunk in chunks[:-1])

    def test_done(self, running: tuple[str, State]) -> None:
        response = post(running[0], json={**GREEDY, "messages": MESSAGES, "stream": True})
        assert response.text.endswith("data: [DONE]\n\n")
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.text.split("\n\n")[:-2]:
            json.loads(line.removeprefix("data: "))

    def test_n(self, client: openai.OpenAI) -> None:
        whole = chat(client, n=2, temperature=1, seed=1)
        chunks = list(chat(client, n=2, temperature=1, seed=1, stream=True))
        assert [joined(chunks, index) for index in range(2)] == [text_of(whole, index) for index in range(2)]

    def test_log_probs(self, client: openai.OpenAI) -> None:
        whole = chat(client, logprobs=True, top_logprobs=1).choices[0].logprobs.content
        chunks = chat(client, logprobs=True, top_logprobs=1, stream=True)
        content = [
            token for chunk in chunks for choice in chunk.choices if choice.logprobs
            for token in choice.logprobs.content
        ]  # fmt: skip
        assert [token.logprob for token in content] == pytest.approx([token.logprob for token in whole], abs=1e-4)

    def test_no_half_characters(self, client: openai.OpenAI) -> None:
        """Two bytes that are forced in turn are a character."""
        bias = {str(token): 60 for token in small.encode("é")}
        pieces = [
            choice.delta.content or "" for chunk in chat(client, stream=True, logit_bias=bias, frequency_penalty=2)
            for choice in chunk.choices
        ]  # fmt: skip
        assert not any(piece.endswith("\ufffd") for piece in pieces[:-3])

    def test_stop(self, client: openai.OpenAI) -> None:
        bias = {str(small.encode("a")[0]): 100}
        chunks = list(chat(client, stream=True, logit_bias=bias, stop=["aaa"]))
        assert joined(chunks) == ""
        assert chunks[-1].choices[0].finish_reason == "stop"

    def test_error_before_the_stream(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError):
            chat(client, stream=True, temperature=3)


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


def test_the_number_of_checks() -> None:
    """The promise is at least 60."""
    classes = (TestModels, TestChat, TestStream, TestCompletions, TestErrors)
    names = [name for kind in classes for name in vars(kind) if name.startswith("test_")]
    assert len(names) + len(BAD) - 1 >= 60
