"""The endpoints of the page without a browser: cookies, votes, prompts to rank."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.serving import page_api
from flows.serving.page_api import Page
from tasks.feedback import FeedbackLog
from tasks.serving import RankingQueue
from tests.evaluation import small
from tests.serving.running import server

PROMPT = [{"role": "user", "content": "say one"}]
ANSWERS = [
    {"text": "x", "model": "sft", "version": "1", "log_probs": [-0.5]},
    {"text": "y", "model": "ppo", "version": "2"},
]
VOTE = {"action": "comparison", "prompt": PROMPT, "answers": ANSWERS, "order": [1, 0], "choice": 1, "reason": "ok"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.write_project(tmp_path_factory.mktemp("data"))


@pytest.fixture
def site(data: Path, tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    page = Page(FeedbackLog(tmp_path), RankingQueue(["say one"], 1.0), ("sft", "ppo"), num_ranked=4, max_new_tokens=4)
    with server(data, "sft", "ppo", page=page) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        yield client, tmp_path


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_settings_and_the_cookie(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    response = client.get("/page/settings")
    assert [model["name"] for model in response.json()["models"]] == ["sft", "ppo"]
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert (
        client.get("/page/settings").headers["set-cookie"].split(";")[0] == response.headers["set-cookie"].split(";")[0]
    )


def test_the_page_allows_no_foreign_code(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    for path in ("/", "/compare", "/rank"):
        response = client.get(path)
        assert response.status_code == 200
        assert "script-src 'self'" in response.headers["content-security-policy"]
        assert "<script>" not in response.text
        assert "http" not in response.text.replace("http-equiv", "")
    for name in ("page.js", "page.css"):
        assert client.get(f"/static/{name}").status_code == 200
    for name in ("page_api.py", "..%2fapp.py", "page.html"):
        assert client.get(f"/static/{name}").status_code == 404


def test_a_vote_is_one_line(site: tuple[httpx.Client, Path]) -> None:
    client, folder = site
    for is_new in (True, False):
        response = client.post("/page/feedback", json={**VOTE, "id": "vote-0001"})
        assert response.json() == {"id": "vote-0001", "is_new": is_new}
    (record,) = records(folder)
    assert record | VOTE == record
    assert record["annotator"] == client.cookies["annotator"]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "short"}, {"id": "../../../etc/passwd"}, {"action": "buy"}, {"order": [0, 0]}, {"choice": 2},
        {"choice": "good"}, {"answers": []}, {"answers": ANSWERS * 2}, {"prompt": []}, {"annotator": "me"},
        {"reason": "x" * 5000}, {"action": "ranking"}, {"action": "thumb", "choice": "good"}, {"action": "undo"},
        {"prompt": [{"role": "x"}]},
    ],
)  # fmt: skip
def test_a_vote_that_the_page_never_sends_is_refused(site: tuple[httpx.Client, Path], changes: dict[str, Any]) -> None:
    client, folder = site
    body = {**VOTE, "id": "vote-0001", **changes}
    response = client.post("/page/feedback", json=body)
    assert response.status_code == 400
    assert records(folder) == []


def test_a_vote_without_a_cookie_is_refused(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    address = str(client.base_url)
    assert httpx.post(f"{address}/page/feedback", json={**VOTE, "id": "vote-0001"}).status_code == 400
    assert httpx.get(f"{address}/page/rank/next", cookies={"annotator": "a b;c"}).status_code == 400


def test_two_annotators_rank_the_same_answers(site: tuple[httpx.Client, Path]) -> None:
    client, folder = site
    item = client.get("/page/rank/next").json()
    assert item == client.get("/page/rank/next").json(), "the same after a reload"
    assert len(item["answers"]) >= 2
    assert {answer["model"] for answer in item["answers"]} <= {"sft", "ppo"}
    assert all(answer["log_probs"] for answer in item["answers"])
    ranks = list(range(len(item["answers"])))
    body = {key: item[key] for key in ("item", "prompt", "answers", "order")}
    ranking = {**body, "id": "ranking-1", "action": "ranking", "ranks": ranks}
    assert client.post("/page/feedback", json=ranking).status_code == 200
    assert client.get("/page/rank/next").json() == {"item": None}
    with httpx.Client(base_url=client.base_url, timeout=30) as other:
        other.get("/page/settings")
        same = other.get("/page/rank/next").json()
        assert (same["item"], same["answers"]) == (item["item"], item["answers"])
        other.post("/page/feedback", json={**ranking, "id": "ranking-2", "order": same["order"]})
        progress = other.get("/page/rank/progress").json()
        assert progress == {"ranked": 2, "mine": 1, "prompts": 1, "alpha": 1.0}
    assert len(records(folder)) == 2


class _Blocks:
    """Blocks texts in turn by a pattern: True stands for a blocked one."""

    def __init__(self, *pattern: bool) -> None:
        self.pattern, self.texts = list(pattern), list[str]()

    def label(self, text: str) -> str | None:
        self.texts.append(text)
        return "rude" if self.pattern[(len(self.texts) - 1) % len(self.pattern)] else None


@pytest.mark.parametrize(("pattern", "has_item"), [((True, False), True), ((True, True), False)])
def test_answers_that_the_filter_blocks_are_not_ranked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: tuple[bool, ...], has_item: bool
) -> None:
    """The filter blocks every second answer, or all of them."""
    page = Page(FeedbackLog(tmp_path), RankingQueue(["say one"]), num_ranked=4, max_new_tokens=8)
    blocks = _Blocks(*pattern)
    with server(data, page=page, filter=blocks) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        item = client.get("/page/rank/next").json()
    assert len(blocks.texts) == 4
    if has_item:
        assert {answer["text"] for answer in item["answers"]} == {blocks.texts[1], blocks.texts[3]}
    else:
        assert item == {"item": None}
        assert "'say one' is not ranked: the filter blocks all but 0 of 4 answers" in capsys.readouterr().err


def test_a_prompt_that_is_too_long_does_not_stop_the_ranking(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(FeedbackLog(tmp_path), RankingQueue(["x" * 300, "say one"]), num_ranked=2, max_new_tokens=4)
    with server(data, page=page) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        assert client.get("/page/rank/next").json()["prompt"] == PROMPT
    assert "is not ranked: it has 30" in capsys.readouterr().err


@pytest.mark.parametrize("num_equal", [2, page_api.MAX_EQUAL])
def test_prompts_with_equal_answers_are_passed_over(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_equal: int
) -> None:
    """At most MAX_EQUAL of them: a model that always gives one answer is not asked for ever."""

    async def answers(_: Any, __: Any, prompt: str) -> list[dict[str, Any]]:
        texts = ("x", "x") if prompt.startswith("equal") else ("x", "y")
        return [{"text": text, "model": "sft", "version": "1"} for text in texts]

    monkeypatch.setattr(page_api, "_answers", answers)
    prompts = [*(f"equal {number}" for number in range(num_equal + 1)), "different"]
    page = Page(FeedbackLog(tmp_path), RankingQueue(prompts))
    with server(data, page=page) as (address, _), httpx.Client(base_url=address, timeout=30) as client:
        client.get("/page/settings")
        prompt = client.get("/page/rank/next").json()["prompt"][0]["content"]
    assert prompt == ("different" if num_equal < page_api.MAX_EQUAL else f"equal {num_equal}")


def test_a_damaged_cookie_is_replaced(site: tuple[httpx.Client, Path]) -> None:
    client, _ = site
    response = httpx.get(f"{client.base_url}/page/settings", headers={"cookie": "annotator=a.b"})
    assert len(response.cookies["annotator"]) == 32
