"""The protocol by the official client: every check is one test, so that their number can be counted.

The checks of completions and of errors are in test_protocol_errors.py.
"""

import json

import openai
import pytest

from flows.serving.state import State
from tests.evaluation import small
from tests.serving import test_protocol_errors as others
from tests.serving.requests import GREEDY, MESSAGES, chat, joined, text_of
from tests.serving.running import post


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


def test_the_number_of_checks() -> None:
    """The promise is at least 60."""
    classes = (TestModels, TestChat, TestStream, others.TestCompletions, others.TestErrors)
    names = [name for kind in classes for name in vars(kind) if name.startswith("test_")]
    assert len(names) + len(others.BAD) - 1 >= 60
