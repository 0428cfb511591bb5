"""Recipes with a model of a few lines: what is asked, kept and dropped, and that nothing is paid twice."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import synthesis as command
from tasks import synthesis
from tasks.errors import BadInput, NothingLeft
from tasks.ingestion.read_counts import ReadCounts
from tasks.ingestion.sources import synthetic
from tasks.synthesis import client

Model = Callable[[str], str]


class FakeEndpoint:
    """Replaces the HTTP request of the client; `sent` are the contents of the requests."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.model: Model = str.upper

    def post(self, endpoint: client.Endpoint, key: str, body: dict[str, Any]) -> dict[str, Any]:
        content = body["messages"][0]["content"]
        self.sent.append(content)
        return {"text": self.model(content), "finish_reason": "stop", "input_tokens": 10, "output_tokens": 5}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEndpoint:
    endpoint = FakeEndpoint()
    monkeypatch.setattr(client.Endpoint, "_post", lambda self, key, body: endpoint.post(self, key, body))
    monkeypatch.setattr(command, "_novelty", lambda limit: lambda old, new: [text not in old for text in new])
    return endpoint


def params(folder: Path, recipe: str, seeds: list[str], **more: Any) -> synthesis.Params:
    (folder / "seeds.txt").write_text("\n".join(seeds), encoding="utf-8")
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "license": "CC0", "num_connections": 1,
                "price_per_million_input": 1e6, "price_per_million_output": 2e6, "retry_seconds": 0.001,
                "max_attempts": 2}  # fmt: skip
    body = {"endpoint": endpoint, "recipe": recipe, "seeds": folder / "seeds.txt", "output": folder / "out", **more}
    return synthesis.Params.model_validate(body)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / command.RECORDS).read_text("utf-8").splitlines()]


def test_answers_with_origin_and_cost(tmp_path: Path, fake: FakeEndpoint) -> None:
    """Two replies of 10 and 5 tokens at prices of 1 and 2 per token cost 40; the second run pays nothing."""
    settings = params(tmp_path, "answers", ["one", "two", "one"])
    summary = command.run(settings)
    assert (summary["sent"], summary["cost"], summary["records"]) == (0, 40.0, 2)
    assert len(fake.sent) == 2
    first = records(tmp_path)[0]
    assert first["messages"][1] == {"role": "assistant", "content": "ONE"}
    assert (first["endpoint"], first["model"], first["license"]) == ("http://127.0.0.1:1/v1", "m", "CC0")
    again = command.run(settings)
    assert (again["stored"], len(fake.sent)) == (2, 2)
    assert again["cost"] == 40.0


def test_a_refusal_a_copy_and_a_long_reply_are_dropped(tmp_path: Path, fake: FakeEndpoint) -> None:
    fake.model = {"a": "I'm sorry, no.", "b": "b", "c": "x" * 50, "d": "good"}.__getitem__
    summary = command.run(params(tmp_path, "answers", ["a", "b", "c", "d"], max_chars=20))
    assert summary["dropped"] == {"a refusal": 1, "a copy of the question": 1, "too short or too long": 1}
    assert len(records(tmp_path)) == 1
    fake.model = lambda text: "对不起，我不能。"
    with pytest.raises(NothingLeft, match="a refusal 1"):
        command.run(params(tmp_path, "answers", ["e"]))


def test_self_instruct_adds_new_instructions_until_there_are_enough(tmp_path: Path, fake: FakeEndpoint) -> None:
    """Each reply has one old, one new and one unreadable part; the examples come from seeds and new instructions."""
    numbers = iter(range(1000))
    fake.model = lambda text: f'Sure: ["seed 1", "new {next(numbers)}", 7]' if text.startswith("Here") else "answer"
    settings = params(tmp_path, "self_instruct", ["seed 1", "seed 2"], num_instructions=3, num_per_request=2)
    summary = command.run(settings)
    assert [row["messages"][0]["content"] for row in records(tmp_path)] == ["new 0", "new 1", "new 2"]
    assert summary["dropped"]["similar to an earlier instruction"] >= 2
    fake.model = lambda text: "no array"
    with pytest.raises(NothingLeft, match="no JSON array"):
        command.run(params(tmp_path, "self_instruct", ["other"], num_instructions=3))


def test_back_translation_asks_for_the_written_text(tmp_path: Path, fake: FakeEndpoint) -> None:
    """The seed is the answer; a translation that is not in the other language is dropped."""
    fake.model = lambda text: {"你好": "hello", "good": "好", "bad": "bad!"}[text.split("\n\n")[1]]
    summary = command.run(params(tmp_path, "back_translation", ["你好", "good", "bad"]))
    assert [[m["content"] for m in row["messages"]] for row in records(tmp_path)] == [
        ["翻译成中文：hello", "你好"], ["Translate into English: 好", "good"],
    ]  # fmt: skip
    assert summary["dropped"] == {"a translation in the wrong language": 1}


def test_preferences_need_the_same_verdict_in_both_orders(tmp_path: Path, fake: FakeEndpoint) -> None:
    """The judge of `fair` prefers the longer answer; that of `first` always says A."""
    count = {"n": 0}

    def model(text: str) -> str:
        if not text.startswith("Compare"):
            count["n"] += 1
            return text + "!" * count["n"]
        material = json.loads(text.split("\n", 1)[1])
        if material["question"] == "first":
            return "A"
        return "A" if len(material["answer_a"]) > len(material["answer_b"]) else "B"

    fake.model = model
    summary = command.run(params(tmp_path, "preferences", ["fair", "first"]))
    (pair,) = records(tmp_path)
    assert len(pair["chosen"]) > len(pair["rejected"])
    assert len(pair["requests"]) == 4
    assert summary["dropped"] == {"the judge contradicts itself or sees a tie": 1}


def test_the_budget_ends_the_run_before_it_is_exceeded(tmp_path: Path, fake: FakeEndpoint) -> None:
    """A request may use 2 + 512 tokens or so; 600 allow one, and after 15 used tokens one more."""
    settings = params(tmp_path, "answers", ["one", "two", "three"], max_total_tokens=530)
    with pytest.raises(BadInput, match="could exceed the budget"):
        command.run(settings)
    assert 1 <= len(fake.sent) < 3
    assert command.run(settings.model_copy(update={"max_total_tokens": None}))["records"] == 3
    assert len(fake.sent) == 3


def test_an_error_is_retried_and_then_reported(
    tmp_path: Path, fake: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def fail_once(self: Any, key: str, body: dict[str, Any]) -> dict[str, Any]:
        attempts.append(key)
        if len(attempts) == 1:
            raise OSError("reset")
        return fake.post(self, key, body)

    monkeypatch.setattr(client.Endpoint, "_post", fail_once)
    assert command.run(params(tmp_path, "answers", ["one"]))["retries"] == 1
    monkeypatch.setattr(client.Endpoint, "_post", lambda self, key, body: (_ for _ in ()).throw(OSError("down")))
    with pytest.raises(BadInput, match=r"did not answer a request \(OSError\('down'\)\)"):
        command.run(params(tmp_path, "answers", ["two"]))


def test_half_of_a_surrogate_pair_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON can state a half surrogate, but a UTF-8 file cannot contain it."""
    reply = rb'{"choices": [{"message": {"content": "A \ud83d and \ud83d\ude00"}}]}'
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO(reply))
    command.run(params(tmp_path, "answers", ["one"]))
    assert records(tmp_path)[0]["messages"][-1]["content"] == "A ? and \N{GRINNING FACE}"


def test_an_estimate_before_anything_is_sent(tmp_path: Path, fake: FakeEndpoint) -> None:
    """Evolving and answering two seeds are four requests."""
    numbers = synthesis.estimate(params(tmp_path, "evolve", ["one", "two"]))
    assert numbers["requests"] == 4
    assert numbers["cost"] > 0
    assert not fake.sent


def test_seeds_of_json_lines_and_their_mistakes(tmp_path: Path, fake: FakeEndpoint) -> None:
    settings = params(tmp_path, "answers", ["x"])
    file = tmp_path / "seeds.jsonl"
    file.write_text('{"instruction": "one"}\n{"text": "two"}\n')
    assert command.run(settings.model_copy(update={"seeds": file}))["records"] == 2
    file.write_text('{"instruction": "one"}\n{"other": 1}\n')
    with pytest.raises(BadInput, match="line 2"):
        command.run(settings.model_copy(update={"seeds": file}))


def test_a_cut_off_reply_on_disk_is_asked_again(tmp_path: Path, fake: FakeEndpoint) -> None:
    settings = params(tmp_path, "answers", ["one", "two"])
    command.run(settings)
    file = tmp_path / "out/replies.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    summary = command.run(settings)
    assert (summary["damaged_lines"], len(fake.sent), summary["records"]) == (1, 3, 2)
    assert command.run(settings)["stored"] == 2


def test_two_processes_cannot_write_the_same_folder(tmp_path: Path) -> None:
    store = synthesis.ReplyStore(tmp_path)
    with pytest.raises(BadInput, match="another process"):
        synthesis.ReplyStore(tmp_path)
    store.close()
    synthesis.ReplyStore(tmp_path).close()


def test_the_source_reads_the_result(tmp_path: Path, fake: FakeEndpoint) -> None:
    """A conversation with its origin; another license and a damaged line are counted."""
    command.run(params(tmp_path, "answers", ["one"]))
    file = tmp_path / "out" / command.RECORDS
    other = json.dumps({**records(tmp_path)[0], "license": "unknown"})
    file.write_text(file.read_text() + f'{other}\nnothing\n{{"messages": []}}\n')
    counts = ReadCounts()
    settings = synthetic.Params.model_validate({"paths": (str(tmp_path / "out"),), "licenses": ("CC0",)})
    conversation, *damaged = synthetic.read(settings, counts)
    assert conversation.metadata["license"] == "CC0"  # type: ignore[union-attr]
    assert [one.reason for one in damaged] == ["invalid_json", "unknown_format"]  # type: ignore[union-attr]
    assert sum(counts.skipped.values()) == 1


def test_novelty_by_minhash() -> None:
    """Equal texts and one with 8 of 9 pairs of words in common are not new; the first of two equal new ones is."""
    from tasks.curation.tasks import novel_texts

    text = "write a short story about a cat and a dog"
    new = [f"{text} today", "explain the tides of the sea to a child", "explain the tides of the sea to a child", text]
    assert novel_texts([text], new, 0.7) == [False, True, False, False]
